"""The option --record of `rumplab run` and `rumplab guest start`, and what they print about the recording."""

from __future__ import annotations

import argparse
import sys

from rumplab.errors import UsageError
from rumplab.machine.registry import Machines
from rumplab.recording import devices, ending
from rumplab.recording.record import Recording


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--record",
        nargs="?",
        const="",
        metavar="DIR",
        help="record the run, so that you can repeat it: in the new directory DIR, or among your recordings; the"
        f" default card is then a {devices.DEFAULT_NIC}",
    )


def check(args: argparse.Namespace) -> bool:
    """Returns whether `args` ask for a recording. UsageError for --on-panic with --record."""
    if args.record is None:
        return False
    if args.on_panic is not None:
        raise UsageError(
            "--record and --on-panic can't be used together; record the run, and look for the failure with: rumplab"
            " debug NAME --replay"
        )
    return True


def print_state(recording: Recording, machines: Machines, name: str) -> None:
    """Prints the state of the recording and the commands for it, which take the argument `name`."""
    if ending.runs(recording, machines):
        print(f"the recording goes on; show it with: rumplab recording show {name}")
        return
    done = ending.settled(recording, machines)
    if done.end is not None:
        print(
            f"rumplab: recorded {name}: {done.end.instructions} instructions; replay it with: rumplab replay {name};"
            f" debug it with: rumplab debug {name} --replay",
            file=sys.stderr,
        )
