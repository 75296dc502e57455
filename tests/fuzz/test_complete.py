"""A reader of the table calls every function that parses input, or NOT_READ says why not."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.engine import ROOT
from fuzz.readers import READERS
from fuzz.test_readers import place  # noqa: F401 - a fixture

PLACES = ("src/rumplab/**/*.py", "plugins/**/*.py", "roles/*/files/**/*.py")
# Calls that parse bytes or text: by the name of the function, or by module and function.
ANYWHERE = {"unpack", "unpack_from", "iter_unpack", "from_bytes", "compose", "parsed", "read_object", "read_json"}
OF_MODULES = {("json", "load"), ("json", "loads"), ("tarfile", "open"), ("shlex", "split"), ("netrc", "netrc")}
NOT_READ = {
    "src/rumplab/building/recipe.py:flags": "an environment variable of the user who runs the tool",
    "src/rumplab/host/peer.py:pid_of": "a result of the kernel",
    "src/rumplab/host/holders.py:of_peer": "an address that the tool looks up in the kernel's table",
    "src/rumplab/guest/ipkdb.py:slot": "a file of the tool's package",
    "src/rumplab/ipkdb/ipv4.py:checksum": "of data that the program writes",
    "src/rumplab/recording/packing.py:pack": "writes",
    "src/rumplab/replay/player.py:pc": "the answer of a QEMU that the program has started itself",
    "plugins/lookup/source_bundle.py:make_bundle": "writes",
    "plugins/module_utils/artifact/built.py:keep": "writes",
    "plugins/module_utils/artifact/sources.py:_open": "calls the archives' reader",
    "plugins/module_utils/artifact/sources.py:_unpack_bundle": "calls the archives' reader",
    "plugins/module_utils/artifact/git.py:check_out": "a file that is_whole has read before",
    "plugins/module_utils/artifact/privilege.py:as_user": "the result of a child process of the same program",
    "plugins/module_utils/host/record.py:settle_packages": "a list that the same run has written",
    "roles/netbsd_release/files/disk.py:disklabel": "of data that the program writes",
    "roles/netbsd_release/files/disk.py:make_disk": "an option that the role sets",
}


def reads(node: ast.AST) -> bool:
    """Return whether a function contains such a call, outside nested functions."""
    inner = [child for child in ast.iter_child_nodes(node) if not isinstance(child, (ast.FunctionDef, ast.ClassDef))]
    return any(is_reading(child) or reads(child) for child in inner)


def is_reading(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in ANYWHERE
    if not isinstance(node.func, ast.Attribute):
        return False
    of = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
    return node.func.attr in ANYWHERE or (of, node.func.attr) in OF_MODULES


def readers() -> Iterator[tuple[str, int, str]]:
    """Yield (file, first line, name) of every function that parses input."""
    for pattern in PLACES:
        for path in sorted(ROOT.glob(pattern)):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and reads(node):
                    lines = (node.lineno, *(one.lineno for one in node.decorator_list))
                    yield str(path.relative_to(ROOT)), min(lines), node.name


def test_everything_that_reads_is_in_the_table(place: Path) -> None:  # noqa: F811
    reached: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            reached.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    for reader in READERS:
        directory = place / reader.name
        directory.mkdir()
        for sample in reader.samples:
            sys.setprofile(note)
            try:
                reader.read(sample, directory)
            finally:
                sys.setprofile(None)
    files = {(str(Path(name).resolve().relative_to(ROOT)), line) for name, line in reached if str(ROOT) in name}
    missed = {f"{path}:{name}" for path, line, name in readers() if (path, line) not in files}
    assert sorted(missed - NOT_READ.keys()) == []
    assert sorted(NOT_READ.keys() - missed) == []
