"""``rumplab dump``: writes a machine's memory and registers to an ELF core file."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rumplab import output
from rumplab.host.files import MIB
from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.postmortem import dump
from rumplab.postmortem.subject import describe

EPILOG = """\
The machine may be running or stopped. It stops while QEMU writes its memory, and then continues if it was running. The
file is an ELF core with the guest's virtual addresses, its registers, and the name and hash of its program. 'rumplab
debug --core' and GDB read it; drgn reads that of a Linux kernel. Zeros in memory take no space on the disk.

examples:
  rumplab dump hello                           hello.core in this directory
  rumplab dump hello -o before.core
  rumplab dump nb -o nb.core.gz --compress     smaller, for a copy; debug --core reads it too
  rumplab debug --core before.core
"""

# A shorter dump shows no progress.
QUIET_SECONDS = 1.0


class Meter:
    """Shows the progress on standard error if that is a terminal, and removes the line at the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._from = time.monotonic() + QUIET_SECONDS
        self._shown = False

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, size: int, memory: int) -> None:
        """`size` of `memory` bytes have been written."""
        if time.monotonic() >= self._from and sys.stderr.isatty():
            self._shown = True
            share = min(100 * size // max(memory, 1), 100)
            print(f"\r{self._name}: {share} % of {memory // MIB} MB", end="", file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("-o", "--output", metavar="FILE.core", type=Path, help="the file (default: NAME.core here)")
    parser.add_argument("--compress", action="store_true", help="compress the file as gzip does")
    parser.add_argument("--json", action="store_true", help="print the dump's record and its sizes as JSON")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    machine = open_machines(lab).find(args.name)
    target = args.output or Path(f"{machine.name}.core")
    with Meter(machine.name) as meter:
        done = dump.write(machine, describe(lab, machine), target.absolute(), args.compress, progress=meter.show)
    if args.json:
        print(output.as_json({**asdict(done.record), "file": str(target.absolute()), "size": done.size}))
        return 0
    print(
        f"{machine.name} ({done.record.state}): wrote {target} ({megabytes(done.taken)} MB on disk); open it with:"
        f" rumplab debug --core {shlex.quote(str(target))}"
    )
    return 0


def megabytes(size: int) -> str:
    """Returns `size` bytes in MiB."""
    return f"{size / MIB:.1f}"
