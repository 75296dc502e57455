"""``rumplab replay``: replays a recorded run."""

from __future__ import annotations

import argparse
import re
import sys

from rumplab.errors import RumplabError
from rumplab.gdb.command_line import checked_location, debugger
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine.registry import open_machines
from rumplab.recording import opening
from rumplab.recording.record import Recording
from rumplab.replay import locations, running

EPILOG = """\
The command prints the console of the recorded run. 'rumplab debug NAME --replay' stops at any instruction, and executes
backwards too.

examples:
  rumplab replay hello
  rumplab replay hello --check                 also compare the console with the recorded one
  rumplab replay hello --until 6800000         the first 6800000 instructions
  rumplab replay hello --until main            up to the first instruction of main's body
  rumplab replay hello.tar.zst                 a packed recording; nothing is left of it afterwards
"""
NUMBER = re.compile("[0-9]{1,18}", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the recording: its name, its directory, or a packed one")
    parser.add_argument("--check", action="store_true", help="fail if the console differs from the recorded one")
    parser.add_argument(
        "--until",
        metavar="ICOUNT|SYMBOL",
        help="stop after ICOUNT instructions, or before the first instruction at SYMBOL",
    )


def target(lab: Lab, recording: Recording, text: str | None) -> tuple[int | None, int | None]:
    """Returns the number of instructions in `text`, and the address of the location in it; one of them is None."""
    if text is None or NUMBER.fullmatch(text):
        return (None if text is None else int(text)), None
    location = checked_location(text) or ""
    return None, locations.address(debugger(lab)[0], recording.symbols_file, location)


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    with opening.opened_once(lab, open_machines(lab), args.name) as found:
        until, address = target(lab, found, args.until)
        played = running.play(found, until, address, sys.stdout.buffer)
        if args.until is not None:
            total = running.end_of(found).instructions
            where = "where QEMU has ended" if played.pc is None else f"pc {played.pc:#x}"
            print(f"rumplab: stopped at instruction {played.position} of {total}, {where}", file=sys.stderr)
        if args.check:
            wrong = running.difference(found.console.read_bytes(), played.console, whole=args.until is None)
            if wrong:
                raise RumplabError(f"the replay of {found.name} differs: {wrong}; record the run again")
            print(f"rumplab: the console is as recorded ({len(played.console)} bytes)", file=sys.stderr)
    return 0
