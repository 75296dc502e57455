"""``rumplab recording index``: takes snapshots along a recording."""

from __future__ import annotations

import argparse
import sys

from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.recording import listing, opening, snapshots
from rumplab.recording.record import Recording
from rumplab.replay import laying, running

EPILOG = """\
A replay can start at a snapshot, so 'rumplab debug NAME --replay' needs less time to go back. The command replays the
run once, takes a snapshot at regular distances, and verifies each one. 'debug --replay' does the same in the background
if the recording is long.

examples:
  rumplab recording index hello
  rumplab recording index hello --remove
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the recording")
    parser.add_argument("--remove", action="store_true", help="remove the snapshots")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    qemu_img = lab.component("qemu").path("qemu-img")
    with opening.opened(lab, open_machines(lab), args.name) as found:
        if args.remove:
            with snapshots.writing(found):
                snapshots.clear(found)
            print(f"the snapshots of {found.name} are removed")
            return 0
        index = laying.lay(found, qemu_img, progress(found))
        if sys.stderr.isatty():
            print(file=sys.stderr)
        if index.reason:
            print(f"rumplab: no more snapshots of {found.name}: {index.reason}", file=sys.stderr)
        size = listing.readable(snapshots.size(found.directory))
        print(f"{found.name} has {len(index.snapshots)} snapshots ({size})")
    return 0


def progress(recording: Recording) -> laying.Report:
    """Returns a function that prints the progress on a terminal."""
    total = running.end_of(recording).instructions

    def report(position: int, count: int) -> None:
        if sys.stderr.isatty():
            print(f"\rinstruction {position} of {total}, {count} snapshots", end="", file=sys.stderr, flush=True)

    return report
