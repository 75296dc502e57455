"""``rumplab snaps``: lists a machine's snapshots, or deletes one."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from rumplab import output
from rumplab.lab import config
from rumplab.machine import snapshots
from rumplab.machine.registry import open_machines

EPILOG = """\
RAN is the guest's clock at the snapshot.

examples:
  rumplab snaps hello
  rumplab snaps hello --json
  rumplab snaps hello --delete before
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("--delete", metavar="LABEL", help="delete this snapshot")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    machine = open_machines(config.load()).find(args.name)
    if args.delete is not None:
        snapshots.delete(machine, args.delete)
        print(f"{machine.name}: deleted snapshot {args.delete}")
        return 0
    taken = snapshots.all_of(machine)
    if args.json:
        print(output.as_json([described(one) for one in taken]))
    elif not taken:
        print(f"{machine.name} has no snapshots; take one with: rumplab snap {machine.name} LABEL")
    else:
        print(output.table(("LABEL", "MB", "TAKEN", "RAN"), map(row, taken)))
    return 0


def described(one: snapshots.Snapshot) -> dict[str, object]:
    """Returns the fields of a snapshot for JSON."""
    return {name: value for name, value in asdict(one).items() if name != "node"}


def row(one: snapshots.Snapshot) -> tuple[str, str, str, str]:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.taken))
    return one.label, f"{one.size / (1 << 20):.1f}", clock, f"{one.ran:.3f}s"
