"""``rumplab guest delete``: removes a guest's definition and the disk that it kept."""

from __future__ import annotations

import argparse

from rumplab.errors import RumplabError
from rumplab.guest.definition import open_guests, running
from rumplab.lab import config
from rumplab.machine.registry import open_machines

EPILOG = """\
The kernel, disk and source files that the definition names are not deleted. A running guest is refused.

examples:
  rumplab guest delete nb
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the guest")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    guests, machines = open_guests(lab), open_machines(lab)
    # Does not read the definition, so that a damaged one can be deleted.
    name = guests.named(args.name)
    machine = running(machines, name)
    if machine is not None:
        raise RumplabError(f"{name} is running (pid {machine.pid}); stop it first: rumplab guest stop {name}")
    guests.remove(name)
    print(f"{name} deleted")
    return 0
