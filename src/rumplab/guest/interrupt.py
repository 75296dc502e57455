"""``rumplab guest break``."""

from __future__ import annotations

import argparse

from rumplab import config
from rumplab.guest import attach, ipkdb, stub
from rumplab.guest.attach import DEBUGGER
from rumplab.guest.definition import open_guests, require_running
from rumplab.machines import open_machines

HELP = "stop a running kernel in its debugger"
EPILOG = """\
NetBSD gets a BREAK on its second serial port, Linux a BREAK and 'g' on its console. IPKDB can't be interrupted.

examples:
  rumplab guest break nb
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the guest")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    guest = open_guests(lab).find(args.name)
    machine = require_running(open_machines(lab), guest)
    ipkdb.refuse_interrupt(machine)
    stub.require_executing(machine)
    if attach.taken(machine, DEBUGGER):
        stub.interrupt(machine, guest, confirm=False)
        print(f"sent a BREAK to {guest.name}; the debugger that is attached says where it has stopped")
        return 0
    if stub.stopped(machine):
        print(f"{guest.name} is in its debugger already; attach with: rumplab guest debug {guest.name}")
        return 0
    stub.interrupt(machine, guest, confirm=True)
    print(f"{guest.name} is in its debugger; attach with: rumplab guest debug {guest.name}")
    return 0
