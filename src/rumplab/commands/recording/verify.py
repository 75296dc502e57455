"""``rumplab recording verify``: compares a recording with its hashes, and QEMU with the one that recorded it."""

from __future__ import annotations

import argparse

from rumplab.errors import RumplabError
from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.recording import ending, snapshots, verifying
from rumplab.recording.emulator import identify
from rumplab.recording.store import open_recordings

EPILOG = """\
'replay' and 'debug --replay' do this before they start. 'rumplab replay NAME --check' also replays the run.

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
    damaged = snapshots.changes(found)
    if damaged:
        raise RumplabError(
            f"{'; '.join(damaged)}; a replay doesn't need the snapshots; remove them: rumplab recording index"
            f" {found.name} --remove"
        )
    print(f"{found.name} is unchanged ({len(found.hashes)} files), and this QEMU recorded it")
    return 0
