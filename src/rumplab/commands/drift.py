"""``rumplab drift``: compares what is installed with the records of its installation."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rumplab import output
from rumplab.errors import RumplabError
from rumplab.lab import config, recorded

EPILOG = """\
Each tree's files are compared with the hashes that were recorded when the tree was installed; the host's own programs
with their recorded size and time. Row 'lab' has the lab's own records and what it made outside its prefix. The exit
status is 1 if something was altered, removed or added. Nothing is changed.

examples:
  rumplab drift
  rumplab drift gdb qemu        these components only
  rumplab drift --json
"""
SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="COMPONENT", help="compare only these components (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def difference(one: recorded.Comparison) -> str:
    """Returns one line with the differences, at most SHOWN names of each kind, and the remedy."""
    kinds = (("altered", one.altered), ("missing", one.missing), ("added", one.added))
    differences = [
        f"{kind}: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}" for kind, names in kinds if names
    ]
    return "; ".join(filter(None, (f"{one.component}: {one.problem or ', '.join(differences)}", one.remedy)))


def as_lines(found: list[recorded.Comparison], user: str) -> list[str]:
    """Returns the lines of the report: a table, the differences, and the number of files not compared."""
    rows = [
        [one.component, *(str(number) for number in (one.files, len(one.altered), len(one.missing), len(one.added)))]
        for one in found
    ]
    unread = sum(len(one.unread) for one in found)
    return [
        *output.table(["COMPONENT", "FILES", "ALTERED", "MISSING", "ADDED"], rows).splitlines(),
        *(difference(one) for one in found if one.differs),
        *([f"{unread} files were not compared, since only {user} may read them"] if unread else []),
    ]


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    found = list(recorded.compare(lab, args.names))
    lacking = set(args.names) - {one.component for one in found}
    if lacking:
        raise RumplabError(f"no record of {', '.join(sorted(lacking))}; the components: rumplab status")
    if args.json:
        data = [{**asdict(one), "remedy": one.remedy if one.differs else ""} for one in found]
        print(output.as_json(data))
    else:
        print("\n".join(as_lines(found, lab.user)))
    return 1 if any(one.differs for one in found) else 0
