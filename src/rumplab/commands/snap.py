"""``rumplab snap``: keeps a machine as it is now."""

from __future__ import annotations

import argparse

from rumplab.lab import config
from rumplab.machine import snapshots
from rumplab.machine.registry import open_machines

EPILOG = """\
Memory, processor, devices, and what was written to disks whose writes are thrown away. Snapshots end with the machine;
a disk image of yours is never changed. 'rumplab dump' writes what lasts.

examples:
  rumplab snap hello before          at a breakpoint, say
  rumplab back hello before          as often as you like
  rumplab snaps hello                which there are
  (gdb) shell rumplab back hello before
  (gdb) refresh                      GDB asks for everything anew
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("label", metavar="LABEL", help="what to call it")


def run(args: argparse.Namespace) -> int:
    machine = open_machines(config.load()).find(args.name)
    taken = snapshots.take(machine, args.label)
    print(
        f"{machine.name} is kept as {taken.label} ({taken.size / (1 << 20):.1f} MB);"
        f" come back with: rumplab back {machine.name} {taken.label}"
    )
    return 0
