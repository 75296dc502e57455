"""``rumplab watch NAME``: watches a machine in the background until it fails or ends; ``--on-panic`` starts it."""

from __future__ import annotations

import argparse

from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.postmortem import panic, panic_policy

EPILOG = """\
examples:
  rumplab run hello.bin --detach --on-panic dump      starts one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    machine = open_machines(lab).find(args.name)
    outcome = panic.Watcher(lab, machine, panic_policy.recorded(machine), print_report).watch()
    return panic_policy.FAILED if outcome.cause else outcome.code


def print_report(report: str) -> None:
    print(report, flush=True)
