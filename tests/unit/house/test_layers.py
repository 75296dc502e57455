"""Imports between the tool's packages: a command imports subjects, a subject imports no command."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "src"
# Every module may import these.
BASE = {"rumplab", "rumplab.errors", "rumplab.output"}
HOST = "rumplab.host"
COMMANDS = "rumplab.commands"
CLI = "rumplab.cli"


def module_name(path: Path, source: Path) -> str:
    name = ".".join(path.relative_to(source).with_suffix("").parts)
    return name.removesuffix(".__init__")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imported(path: Path, source: Path) -> Iterator[str]:
    """Yield the tool's modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if within(alias.name, "rumplab"))
        elif isinstance(node, ast.ImportFrom) and node.module and within(node.module, "rumplab"):
            for alias in node.names:
                inner = Path(source, *node.module.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def complaint(module: str, other: str) -> str:
    """Return why `module` must not import `other`; "" if it may."""
    if other in BASE:
        return ""
    if within(module, HOST) and not within(other, HOST):
        return "host imports only host and the base modules"
    if module in BASE:
        return "a base module imports nothing of the tool"
    if within(module, COMMANDS):
        # `guest` loads its sub-commands by name.
        if within(other, COMMANDS):
            return "a command imports no other command"
        return ""
    if within(other, COMMANDS):
        return "only cli loads a command, and by its name"
    if within(other, CLI) and not within(module, CLI) and module != "rumplab.__main__":
        return "a subject imports nothing of cli"
    return ""


def complaints(source: Path) -> list[str]:
    found = []
    for path in sorted(source.rglob("*.py")):
        module = module_name(path, source)
        for other in sorted(set(imported(path, source))):
            why = complaint(module, other)
            if why:
                found.append(f"{module} imports {other}: {why}")
    return found


def circle(source: Path) -> list[str]:
    """Return modules that import each other in a circle, in order; an empty list if none do."""
    imports = {module_name(path, source): set(imported(path, source)) for path in source.rglob("*.py")}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_modules_import_each_other_in_a_circle(tmp_path: Path) -> None:
    assert circle(SOURCE) == []
    (tmp_path / "rumplab/ipkdb").mkdir(parents=True)
    (tmp_path / "rumplab/ipkdb/pcap.py").write_text("def late():\n    from rumplab.ipkdb import pcapng\n")
    (tmp_path / "rumplab/ipkdb/pcapng.py").write_text("from rumplab.ipkdb.pcap import Record\n")
    assert {"rumplab.ipkdb.pcap", "rumplab.ipkdb.pcapng"} == set(circle(tmp_path))


def test_imports_go_from_commands_to_subjects_to_the_host() -> None:
    assert complaints(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("host/locks.py", "from rumplab.lab import config", "host imports only host"),
        ("commands/stop.py", "from rumplab.commands.ps import state", "no other command"),
        ("machine/launch.py", "    from rumplab.commands import run", "by its name"),
        ("guest/overlay.py", "from rumplab.cli.arguments import port", "nothing of cli"),
        ("errors.py", "import rumplab.lab.config", "imports nothing"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str, why: str) -> None:
    for name in ("lab/config.py", "commands/ps.py", "commands/run.py", "cli/arguments.py", file):
        path = tmp_path / "rumplab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{line}\n" if name == file and not line.startswith(" ") else "")
    path.write_text(f"def late():\n{line}\n" if line.startswith(" ") else f"{line}\n")
    assert [why in found for found in complaints(tmp_path)] == [True]
