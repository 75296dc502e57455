"""``rumplab guest console``."""

from __future__ import annotations

import argparse
import sys

from rumplab import config
from rumplab.guest.console import interact
from rumplab.guest.definition import open_guests, require_running
from rumplab.machines import open_machines

HELP = "this terminal on a guest's console; Ctrl-] leaves it"
EPILOG = """\
The console goes on being logged: 'rumplab logs NAME' prints all of it. What a file or a pipe types is taken too;
after its end, the console's silence for two seconds ends the session.

examples:
  rumplab guest console nb
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the guest")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    guest = open_guests(lab).find(args.name)
    if not interact(require_running(open_machines(lab), guest)):
        print(f"{guest.name} has closed its console; 'rumplab logs {guest.name}' has all of it", file=sys.stderr)
    return 0
