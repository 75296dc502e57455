"""``rumplab snap``: saves a machine's state as a snapshot."""

from __future__ import annotations

import argparse

from rumplab.lab import config
from rumplab.machine import snapshots
from rumplab.machine.registry import open_machines

EPILOG = """\
A snapshot has the memory, the processors, the devices, and the writes to disks whose writes are discarded. It is
removed when the machine ends, and changes no disk image of yours. For a file that stays, use 'rumplab dump'.

examples:
  rumplab snap hello before          for example at a breakpoint
  rumplab back hello before          as often as you like
  rumplab snaps hello                list them
  (gdb) shell rumplab back hello before
  (gdb) refresh                      GDB reads registers and memory again
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("label", metavar="LABEL", help="the snapshot's label: letters, digits, '.', '_' and '-'")


def run(args: argparse.Namespace) -> int:
    machine = open_machines(config.load()).find(args.name)
    taken = snapshots.take(machine, args.label)
    print(
        f"{machine.name}: saved snapshot {taken.label} ({taken.size / (1 << 20):.1f} MB);"
        f" go back to it with: rumplab back {machine.name} {taken.label}"
    )
    return 0
