"""``rumplab back``: takes a machine back to a snapshot."""

from __future__ import annotations

import argparse

from rumplab.lab import config
from rumplab.machine import snapshots
from rumplab.machine.registry import open_machines

EPILOG = """\
A running machine continues from there; a stopped one stays stopped there. A debugger stays attached, and keeps its
breakpoints. In the lab's GDB, the command 'refresh' reads registers and memory again.

examples:
  rumplab back hello before
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("label", metavar="LABEL", help="the snapshot's label; 'rumplab snaps NAME' lists them")


def run(args: argparse.Namespace) -> int:
    machine = open_machines(config.load()).find(args.name)
    snapshot = snapshots.back(machine, args.label)
    print(f"{machine.name} is back at {snapshot.label}")
    return 0
