"""Check that each source edit of each role fits real checkouts of the upstreams, and that required texts are there.

usage: tools/python tests/upstream/anchors.py DIR [--json]

DIR has a checkout, or an unpacked release, of each upstream at the pinned commit or version:

    DIR/gorump      https://github.com/deferpanic/gorump
    DIR/rumprun     https://github.com/rumpkernel/rumprun, with its submodules
    DIR/gdb-*       releases of GDB, one or more

The program changes nothing in DIR: it applies edits to copies of the files that they name. The exit status is 0 if all
edits fit, 1 if one doesn't or its file is missing, 2 for a usage error. It reads the edits from the roles' variables,
so that it tries new ones without a change here; only a role of a new upstream needs a row in UPSTREAMS. UPSTREAMS also
has the texts of the upstreams' scripts that a recipe requires, each as a file and a pattern. The miniatures that the
tests build must have these texts too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar

from plugins.module_utils.artifact import edits
from plugins.module_utils.artifact.errors import Broken
from rumplab import output

ROOT = Path(__file__).resolve().parents[2]

ANY_LOOKUP = lookup_loader.get

MATCHED, NOT_MATCHED, MISSING = "matched", "not matched", "file missing"


@dataclass(frozen=True)
class Text:
    """A text that a role requires: a file of the upstream, and a regular expression that must match in it."""

    name: str
    file: str
    pattern: str


@dataclass(frozen=True)
class Upstream:
    """The pattern of an upstream's checkouts in DIR, the settings of its role to try the edits with, and its texts."""

    checkouts: str
    settings: tuple[Mapping[str, Any], ...] = ({},)
    texts: tuple[Text, ...] = ()


RUMPRUN = (
    Text("options -d, -j and -o", "build-rr.sh", r"getopts '(?=[^']*d:)(?=[^']*j:)[^']*o:"),
    Text("a repository decides on the branch", "build-rr.sh", r"rev-parse --abbrev-ref HEAD"),
    Text("the host's compiler is HOST_CC, in words", "buildrump.sh/buildrump.sh", r"type \$\{?HOST_CC\b"),
    Text("nbmake is made with HOST_CFLAGS", "src-netbsd/build.sh", r"\$\{HOST_CFLAGS--O\}"),
    Text("the linker alone is told -r", "app-tools/cc.in", r"-Wl,-r\b"),
    Text("libraries are linked whole", "app-tools/rumprun-bake.in", r"-Wl,--whole-archive"),
    Text("version of the baker's configuration", "app-tools/rumprun-bake.conf", r"^version 20160209$"),
    Text(
        "scsibus attaches to all that has one",
        "src-netbsd/sys/rump/dev/lib/libscsipi/SCSIPI.ioconf",
        r"^scsibus\*\s+at\s+scsi\?",
    ),
    Text("a disk has eight minor numbers", "src-netbsd/sys/arch/x86/include/disklabel.h", r"define\s+DISKMINOR\("),
)
GORUMP = tuple(
    text
    for tree in ("go1.5", "1.7/go")
    for text in (
        Text(f"{tree}: make.bash wants run.bash", f"{tree}/src/make.bash", r"! -f run\.bash"),
        Text(f"{tree}: the bootstrap is a Go tree", f"{tree}/src/make.bash", r"\$GOROOT_BOOTSTRAP/bin/go\b"),
    )
)


UPSTREAMS = {
    "gdb": Upstream("gdb-*"),
    "go_builder": Upstream(
        "gorump", tuple({"go_builder_version": tree, "go_builder_heap_bits": 25} for tree in ("1.5", "1.7")), GORUMP
    ),
    "rump_toolchain": Upstream("rumprun", texts=RUMPRUN),
}


@dataclass(frozen=True)
class Row:
    """The result of an edit, or of a text, in a checkout."""

    role: str
    checkout: str
    edit: str
    file: str
    result: str
    reason: str = ""


def variable_of(role: str, name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return a variable of a role with these settings; its templates are filled for a Linux host on x86-64."""
    loader = DataLoader()
    files = [ROOT / "inventory/group_vars/all/pins.yml", *(ROOT / "roles" / role / "defaults").glob("main.yml")]
    variables: dict[str, Any] = {"ansible_facts": {"system": "Linux", "architecture": "x86_64"}}
    for path in [*files, ROOT / "roles" / role / "vars/main.yml"]:
        variables.update(loader.load_from_file(str(path), trusted_as_template=True))
    variables.update(settings or {})
    with patch.object(lookup_loader, "get", own_lookup):
        return Templar(loader=loader, variables=variables).template(variables[name])


def own_lookup(name: str, *arguments: Any, **options: Any) -> Any:
    """Return a lookup of the checkout, where Ansible would load it from the installed collection."""
    if not name.startswith("rumplab.lab."):
        return ANY_LOOKUP(name, *arguments, **options)
    return importlib.import_module(f"plugins.lookup.{name.rpartition('.')[2]}").LookupModule(**options)


def edits_of(role: str, settings: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the edits that a role applies with these settings, in order: its variable `__ROLE_edits`."""
    return [dict(edit) for edit in variable_of(role, f"__{role}_edits", settings)]


def roles_with_edits() -> list[str]:
    """Return the roles that have edits, by name."""
    found = []
    for path in sorted((ROOT / "roles").glob("*/vars/main.yml")):
        role = path.parent.parent.name
        if f"\n__{role}_edits:" in path.read_text("utf-8"):
            found.append(role)
    return found


def try_edits(wanted: Sequence[Mapping[str, Any]], checkout: Path) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """Apply the edits in order to a copy of the files; yield each edit, its result and the reason."""
    with tempfile.TemporaryDirectory() as directory:
        copies = Path(directory)
        for edit in wanted:
            original, copy = checkout / edit["file"], copies / edit["file"]
            if original.is_file() and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(original, copy)
            there = copy.exists()
            try:
                edits.apply_edits(str(copies), [edit])
            except Broken as error:
                yield edit, NOT_MATCHED if there else MISSING, str(error)
            else:
                yield edit, MATCHED, ""


def find_texts(wanted: Sequence[Text], checkout: Path) -> Iterator[tuple[Text, str, str]]:
    """Yield each text, its result and the reason."""
    for text in wanted:
        path = checkout / text.file
        if not path.is_file():
            yield text, MISSING, f"'{text.name}' is looked for in {text.file}, which this source doesn't have"
        elif re.search(text.pattern, path.read_text("utf-8", "replace"), re.MULTILINE):
            yield text, MATCHED, ""
        else:
            yield text, NOT_MATCHED, f"'{text.name}' isn't in {text.file}: no match for {text.pattern}"


def rows_of(directory: Path, roles: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each edit and text in each checkout. A role without a checkout has one row, with MISSING."""
    for role in roles:
        upstream = UPSTREAMS.get(role)
        if upstream is None:
            yield Row(role, "-", "-", "-", MISSING, f"{role} is not in UPSTREAMS; add its checkout and texts there")
            continue
        checkouts = sorted(path for path in directory.glob(upstream.checkouts) if path.is_dir())
        if not checkouts:
            yield Row(role, upstream.checkouts, "-", "-", MISSING, f"there is no {directory / upstream.checkouts}")
        for checkout in checkouts:
            for settings in upstream.settings:
                for edit, result, reason in try_edits(edits_of(role, settings), checkout):
                    yield Row(role, checkout.name, edit["name"], edit["file"], result, reason)
            for text, result, reason in find_texts(upstream.texts, checkout):
                yield Row(role, checkout.name, text.name, text.file, result, reason)


def report(rows: Sequence[Row]) -> str:
    """Return the rows as a table, and below it the reasons of those that don't fit."""
    cells = [[row.checkout, row.edit, row.file, row.result] for row in rows]
    reasons = [f"{row.role}: {row.reason}" for row in rows if row.reason]
    return "\n".join([output.table(["CHECKOUT", "EDIT OR TEXT", "FILE", "RESULT"], cells), *reasons])


def main(argv: Sequence[str]) -> int:
    """Print the results, and return the exit status."""
    parser = argparse.ArgumentParser(description="Whether every edit, and every text counted on, fits real checkouts.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="holds gorump, rumprun and gdb-*")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if not options.directory.is_dir():
        parser.error(f"{options.directory} is not a directory")
    rows = list(rows_of(options.directory, roles_with_edits()))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else report(rows))
    return 0 if all(row.result == MATCHED for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
