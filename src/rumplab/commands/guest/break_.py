"""``rumplab guest break``: stops a running kernel in its debugger."""

from __future__ import annotations

import argparse

from rumplab.guest import ipkdb, kernel_debugger, lines
from rumplab.guest.definition import open_guests, require_running
from rumplab.guest.lines import DEBUGGER
from rumplab.lab import config
from rumplab.machine.registry import open_machines

EPILOG = """\
The command sends a BREAK: to NetBSD on the second serial port, to Linux on the console, followed by 'g'. Then attach
with 'rumplab guest debug NAME'. A kernel with IPKDB can't be stopped while it runs. For a kernel without a debugger of
its own, use 'rumplab guest debug NAME --qemu-stub'.

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
    kernel_debugger.refuse_recorded(machine)
    kernel_debugger.require_executing(machine)
    if lines.taken(machine, DEBUGGER):
        kernel_debugger.interrupt(machine, guest, confirm=False)
        print(f"sent a BREAK to {guest.name}; the attached debugger shows where the kernel has stopped")
        return 0
    if kernel_debugger.stopped(machine):
        print(f"{guest.name} is in its debugger already; attach with: rumplab guest debug {guest.name}")
        return 0
    kernel_debugger.interrupt(machine, guest, confirm=True)
    print(f"{guest.name} is in its debugger; attach with: rumplab guest debug {guest.name}")
    return 0
