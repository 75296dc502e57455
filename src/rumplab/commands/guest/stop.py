"""``rumplab guest stop``: shuts a guest down, and ends its machine if the guest can't shut down or takes too long."""

from __future__ import annotations

import argparse
import re
import sys
import time

from rumplab.cli.arguments import seconds
from rumplab.errors import RumplabError, UsageError
from rumplab.guest import kernel_debugger, shell
from rumplab.guest.console import Console
from rumplab.guest.definition import LINUX, Guest, open_guests, require_running, running
from rumplab.host import process
from rumplab.lab import config
from rumplab.machine import qmp, shutdown
from rumplab.machine.registry import Machine, Machines, open_machines

EPILOG = """\
If the console shows a shell's prompt, or a login that root needs no password for, the command types the shutdown there;
else it presses the power button. A guest that isn't down in time, or whose kernel is stopped in its debugger, is ended
without a shutdown.

examples:
  rumplab guest stop nb
  rumplab guest stop nb --timeout 120
  rumplab guest stop nb --now           without a shutdown
  rumplab guest stop --all
"""
DEFAULT_SECONDS = 60.0
LOOK_SECONDS = 3.0
POLL_SECONDS = 0.1
COMMANDS = {LINUX: "poweroff"}
NETBSD_COMMAND = "shutdown -p now"
NO_BUTTON = "its console shows no shell, and QEMU doesn't record the power button"
# The last message of a kernel that can't turn the machine off. Ending the machine loses no data then.
HALTED = r"has halted|System halted|Please press any key to reboot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the guest")
    parser.add_argument("--all", action="store_true", help="all of your guests that run")
    parser.add_argument("--now", action="store_true", help="end it at once, without a shutdown")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=DEFAULT_SECONDS,
        metavar="SECONDS",
        help="how long it may take to shut down (default: 60)",
    )


def why_not(machine: Machine) -> str | None:
    """Returns why the guest can't shut down now, because its kernel doesn't run; None if it can."""
    found = kernel_debugger.state(machine)
    if found != "running":
        return f"QEMU has stopped it ({found})"
    if kernel_debugger.in_debugger(machine):
        return "its kernel is stopped in its debugger"
    return None


def shut_down(machine: Machine, guest: Guest, seconds: float) -> str:
    """Asks the guest to shut down, with a command on its console or with the power button. Returns why it has not shut
    down within `seconds`; an empty string if it has."""
    deadline = time.monotonic() + seconds
    try:
        with Console(machine) as console:
            if re.search(HALTED, console.tail()):
                return ""
            if shell.ready(console, min(LOOK_SECONDS, seconds)):
                console.send(COMMANDS.get(guest.kind, NETBSD_COMMAND) + shell.ENTER)
            elif machine.recording:
                return NO_BUTTON
            else:
                press_button(machine)
            while time.monotonic() < deadline:
                if process.wait_gone(machine.pid, machine.token, POLL_SECONDS):
                    return ""
                if console.expect(HALTED, 0):
                    return ""
    except RumplabError:
        # Another command may use the console, or the guest may have closed it during the shutdown.
        if machine.recording and machine.alive():
            return NO_BUTTON
        if machine.alive():
            press_button(machine)
    gone = process.wait_gone(machine.pid, machine.token, max(deadline - time.monotonic(), 0))
    return "" if gone else f"it has not shut down within {seconds:.0f} s"


def press_button(machine: Machine) -> None:
    """Presses the machine's power button (ACPI). RumplabError if QEMU doesn't answer."""
    try:
        qmp.execute(machine.socket, "system_powerdown")
    except qmp.QmpError as error:
        raise RumplabError(
            f"{machine.name} doesn't answer: {error}; end it with: rumplab stop {machine.name}"
        ) from error


def end(machines: Machines, machine: Machine, guest: Guest, args: argparse.Namespace) -> str:
    """Ends one guest and returns the message about it. RumplabError if its process doesn't end."""
    started = machines.started(machine, shutdown.START_SECONDS)
    if started is None:
        return f"{guest.name} has ended already"
    why = "--now" if args.now else why_not(started)
    message = f"{guest.name} stopped"
    if why is not None and not args.now:
        message = f"{guest.name} ended without shutting down: {why}"
    elif why is None:
        problem = shut_down(started, guest, args.timeout)
        if problem:
            message = f"{guest.name} ended: {problem}"
    if not shutdown.end(machines, started):
        raise RumplabError(f"{guest.name} (pid {started.pid}) does not end; look at it with: ps {started.pid}")
    machines.retire(started)
    return message


def run(args: argparse.Namespace) -> int:
    if args.all == (args.name is not None):
        raise UsageError("name one guest, or use --all")
    lab = config.load()
    guests, machines = open_guests(lab), open_machines(lab)
    damaged: list[str] = []
    chosen = guests.all(damaged.append) if args.all else [guests.find(args.name)]
    for guest in chosen:
        machine = running(machines, guest.name) if args.all else require_running(machines, guest)
        if machine is not None:
            print(end(machines, machine, guest, args), flush=True)
    for what in damaged:
        print(f"rumplab guest stop: {what}", file=sys.stderr)
    return 1 if damaged else 0
