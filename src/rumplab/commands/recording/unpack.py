"""``rumplab recording unpack``: makes a recording from a packed one."""

from __future__ import annotations

import argparse
from pathlib import Path

from rumplab.lab import config
from rumplab.machine.registry import check_name
from rumplab.recording import packing, verifying
from rumplab.recording.store import PACKED, open_recordings

EPILOG = f"""\
examples:
  rumplab recording unpack hello{PACKED}
  rumplab recording unpack hello{PACKED} --name theirs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a file of 'rumplab recording pack'")
    parser.add_argument("--name", help="the recording's name here (default: its old name)")


def run(args: argparse.Namespace) -> int:
    recordings = open_recordings(config.load())
    if args.name is not None:
        check_name(args.name)
    with packing.unpacked(args.file, recordings.root) as found:
        verifying.require_unchanged(found)
        place = recordings.adopt(found.directory, args.name or found.name)
    print(f"{place.name} unpacked; replay it with: rumplab replay {place.name}")
    return 0
