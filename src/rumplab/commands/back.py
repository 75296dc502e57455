"""``rumplab back``: makes a machine what it was when it was kept."""

from __future__ import annotations

import argparse

from rumplab.lab import config
from rumplab.machine import snapshots
from rumplab.machine.registry import open_machines

EPILOG = """\
A machine that runs goes on from there, one that stands still stands still there. A debugger stays attached, with its
breakpoints; 'refresh' in GDB has it ask for registers and memory anew.

examples:
  rumplab back hello before
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("label", metavar="LABEL", help="the snapshot's; 'rumplab snaps NAME' lists them")


def run(args: argparse.Namespace) -> int:
    machine = open_machines(config.load()).find(args.name)
    snapshot = snapshots.back(machine, args.label)
    print(f"{machine.name} is back at {snapshot.label}")
    return 0
