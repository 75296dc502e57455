"""``rumplab logs``: prints the log of a machine's serial port."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import BinaryIO

from rumplab.lab import config
from rumplab.machine.consoles import VGA
from rumplab.machine.registry import Machine, locate, open_machines, read_record
from rumplab.postmortem.panic_policy import REPORT, failure

EPILOG = """\
You can read the console of a machine that has ended until its name is used again. If the console is the screen, use
'rumplab screen'; this command then prints only what the machine wrote to its serial port.

examples:
  rumplab logs hello
  rumplab logs hello --follow      until the machine ends
"""
POLL_SECONDS = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing until the machine ends")


def copy(log: BinaryIO, target: BinaryIO) -> None:
    shutil.copyfileobj(log, target)
    target.flush()


def elsewhere(path: Path, name: str, running: Machine | None) -> str | None:
    """Returns a note about where the console is, if it isn't the serial port with the log `path`; None otherwise."""
    machine = running or read_record(path.parent)
    if machine is None or machine.console != VGA:
        return None
    if running is None:
        return f"the console was the screen of {name}, which has ended"
    return f"the console is the screen: rumplab screen {name}"


def run(args: argparse.Namespace) -> int:
    path, machine = locate(open_machines(config.load()), args.name)
    place = elsewhere(path, args.name, machine)
    if place is not None:
        print(f"rumplab logs: {place}", file=sys.stderr)
    failed = failure(path.parent)
    if failed is not None:
        print(f"rumplab logs: {failed.splitlines()[0]}; more in {path.parent / REPORT}", file=sys.stderr)
    with path.open("rb") as log:
        copy(log, sys.stdout.buffer)
        while args.follow and machine is not None and machine.alive():
            time.sleep(POLL_SECONDS)
            copy(log, sys.stdout.buffer)
        # What the machine wrote after the last copy and before its end.
        copy(log, sys.stdout.buffer)
    return 0
