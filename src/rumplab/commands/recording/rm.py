"""``rumplab recording rm``: removes recordings."""

from __future__ import annotations

import argparse

from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.recording import removing
from rumplab.recording.store import open_recordings

EPILOG = """\
examples:
  rumplab recording rm hello hello-2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="the recordings")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    recordings, machines = open_recordings(lab), open_machines(lab)
    for name in args.names:
        removing.remove(recordings.locate(name), machines)
        print(f"{name} removed")
    return 0
