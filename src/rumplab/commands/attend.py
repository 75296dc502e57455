"""``rumplab attend NAME``: waits for a machine in the background to fail; ``--on-panic`` starts it."""

from __future__ import annotations

import argparse

from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.postmortem import panic, wishes

EPILOG = """\
examples:
  rumplab run hello.bin --detach --on-panic dump      starts one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    machine = open_machines(lab).find(args.name)
    outcome = panic.Attendant(lab, machine, wishes.recorded(machine), tell).attend()
    return wishes.FAILED if outcome.cause else outcome.code


def tell(report: str) -> None:
    print(report, flush=True)
