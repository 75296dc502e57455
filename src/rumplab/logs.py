"""``rumplab logs``: what a machine's serial console said."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import BinaryIO

from rumplab import config
from rumplab.errors import RumplabError
from rumplab.machines import Machine, Machines, check_name, open_machines

HELP = "print a machine's serial console"
EPILOG = """\
The console of a machine that has ended stays readable until its name is used again.

examples:
  rumplab logs hello
  rumplab logs hello --follow      until the machine ends
"""
POLL_SECONDS = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the machine ends")


def locate(machines: Machines, name: str) -> tuple[Path, Machine | None]:
    """The log of `name` and, if it is running, its record. RumplabError when there was no such machine."""
    check_name(name)
    for machine in machines.all():
        if machine.name == name:
            return machine.serial_log, machine
    kept = machines.ended(name)
    if kept is None:
        raise RumplabError(f"no machine called '{name}' is or was running; 'rumplab ps' lists those that are")
    return kept / "serial.log", None


def copy(log: BinaryIO, target: BinaryIO) -> None:
    shutil.copyfileobj(log, target)
    target.flush()


def run(args: argparse.Namespace) -> int:
    path, machine = locate(open_machines(config.load()), args.name)
    with path.open("rb") as log:
        copy(log, sys.stdout.buffer)
        while args.follow and machine is not None and machine.alive():
            time.sleep(POLL_SECONDS)
            copy(log, sys.stdout.buffer)
        # What it said between the last look and its end.
        copy(log, sys.stdout.buffer)
    return 0
