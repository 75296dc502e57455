"""``rumplab recording pack``: writes a recording to one file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.recording import ending, packing, verifying
from rumplab.recording.store import PACKED, open_recordings

EPILOG = f"""\
The file is a tar archive, compressed by zstd; its name should end in {PACKED}.

examples:
  rumplab recording pack hello -o hello{PACKED}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the recording")
    parser.add_argument("-o", "--output", metavar="FILE", help=f"the file (default: NAME{PACKED} in this directory)")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    found = ending.settled(open_recordings(lab).find(args.name), open_machines(lab))
    verifying.require_unchanged(found)
    path = Path(os.path.abspath(args.output or f"{found.name}{PACKED}"))
    packing.pack(found, path)
    print(f"{path}: {path.stat().st_size} bytes")
    return 0
