"""``rumplab recording verify``: whether a recording is what it was, and this QEMU the one that made it."""

from __future__ import annotations

import argparse

from rumplab.errors import RumplabError
from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.recording import ending, verifying
from rumplab.recording.emulator import identify
from rumplab.recording.store import open_recordings

EPILOG = """\
'replay' and 'debug --replay' do the same before they begin. 'rumplab replay NAME --check' repeats the run too.

examples:
  rumplab recording verify hello
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the recording")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    found = ending.settled(open_recordings(lab).find(args.name), open_machines(lab))
    emulator = lab.component("qemu").path("qemu-system-x86_64")
    problems = [*verifying.changes(found), *verifying.differences(found, identify(emulator))]
    if problems:
        raise RumplabError("; ".join(problems))
    print(f"{found.name} is as it was recorded ({len(found.hashes)} files), and QEMU is the one that recorded it")
    return 0
