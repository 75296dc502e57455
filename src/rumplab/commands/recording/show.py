"""``rumplab recording show``: shows the content of a recording."""

from __future__ import annotations

import argparse
import shlex

from rumplab import output
from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.recording import ending, listing
from rumplab.recording.store import open_recordings

EPILOG = """\
examples:
  rumplab recording show hello
  rumplab recording show hello --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the recording")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    machines = open_machines(lab)
    recordings = open_recordings(lab)
    found = recordings.find(args.name)
    if not ending.runs(found, machines):
        found = ending.settled(found, machines)
    if args.json:
        print(output.as_json(listing.as_data(listing.row(found.directory, recordings, machines))))
        return 0
    print("\n".join(listing.lines(found)))
    print(f"command       {output.printable(shlex.join(found.argv))}")
    return 0
