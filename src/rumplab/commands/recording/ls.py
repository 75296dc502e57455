"""``rumplab recording ls``: lists your recordings."""

from __future__ import annotations

import argparse
import time

from rumplab import output
from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.recording import listing
from rumplab.recording.store import open_recordings

EPILOG = """\
examples:
  rumplab recording ls
  rumplab recording ls --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    rows = listing.rows(open_recordings(lab), open_machines(lab))
    if args.json:
        print(output.as_json([listing.as_data(row) for row in rows]))
    else:
        print(output.table(listing.HEADER, (listing.cells(row, time.localtime) for row in rows)))
    return 0
