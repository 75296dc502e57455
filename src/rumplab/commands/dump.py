"""``rumplab dump``: a machine's memory and registers, as a core that debuggers read."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path

from rumplab import output
from rumplab.host.files import MIB
from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.postmortem import dump
from rumplab.postmortem.subject import describe

EPILOG = """\
The machine, running or stopped, stands still while its memory is written, and is left as it was. The file is an ELF
core, which 'rumplab debug --core', GDB and, of a Linux kernel, drgn read: the guest's virtual addresses, its registers,
and which program that was, with its hash. Memory that is zero takes no room.

examples:
  rumplab dump hello                           hello.core in this directory
  rumplab dump hello -o before.core
  rumplab dump nb -o nb.core.gz --compress     smaller, to be passed on; debug --core takes it as it is
  rumplab debug --core before.core
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("-o", "--output", metavar="FILE.core", type=Path, help="the file (default: NAME.core here)")
    parser.add_argument("--compress", action="store_true", help="as gzip does")
    parser.add_argument("--json", action="store_true", help="print JSON: what the dump says of the machine, and sizes")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    machine = open_machines(lab).find(args.name)
    target = args.output or Path(f"{machine.name}.core")
    done = dump.write(machine, describe(lab, machine), target.absolute(), args.compress)
    if args.json:
        print(output.as_json({**asdict(done.record), "file": str(target.absolute()), "size": done.size}))
        return 0
    print(
        f"{machine.name} ({done.record.state}) is in {target} ({megabytes(done.taken)} MB on disk); open it with:"
        f" rumplab debug --core {shlex.quote(str(target))}"
    )
    return 0


def megabytes(size: int) -> str:
    return f"{size / MIB:.1f}"
