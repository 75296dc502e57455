"""``rumplab stop``: ends machines, politely first, within a bounded time."""

from __future__ import annotations

import argparse

from rumplab import config, places, process, qmp, temporary
from rumplab.errors import RumplabError, UsageError
from rumplab.machines import Machine, Machines, open_machines

HELP = "end a machine"
EPILOG = """\
QEMU is told to quit; if it doesn't, it gets SIGTERM and at last SIGKILL. Only the process that rumplab
started is ever signalled.

examples:
  rumplab stop hello
  rumplab stop netbsd --powerdown     press its power button and give it time to shut down
  rumplab stop --all
"""
START_SECONDS = 5.0
QUIT_SECONDS = 5.0
POWERDOWN_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the machine")
    parser.add_argument("--all", action="store_true", help="all of your machines")
    parser.add_argument(
        "--forget",
        action="store_true",
        help="with --all: and take away all that you have of this lab, guests and their disks too; for uninstalling",
    )
    parser.add_argument(
        "--powerdown",
        action="store_true",
        help=f"let the guest shut down first, for {POWERDOWN_SECONDS:.0f} s at most",
    )


def ask(machine: Machine, command: str, patience: float) -> bool:
    """Sends one command to QEMU's control socket; whether the machine ended within `patience` seconds."""
    try:
        qmp.execute(machine.socket, command)
    except qmp.QmpError:
        # Quitting may close the socket before the answer; a machine that doesn't listen gets signals.
        return process.wait_gone(machine.pid, machine.token, 0.2)
    return process.wait_gone(machine.pid, machine.token, patience)


def end(machines: Machines, machine: Machine, powerdown: bool = False) -> bool:
    """Ends one machine and retires its record; whether it is gone."""
    # While it starts, the process on record is its launcher, which killed now would leave QEMU behind.
    running = machines.started(machine, START_SECONDS)
    if running is None:
        return not machine.alive()
    machine = running
    gone = powerdown and ask(machine, "system_powerdown", POWERDOWN_SECONDS)
    gone = gone or ask(machine, "quit", QUIT_SECONDS) or process.terminate(machine.pid, machine.token)
    if gone:
        machines.retire(machine)
    return gone


def run(args: argparse.Namespace) -> int:
    if args.all == (args.name is not None):
        raise UsageError("say which machine: its NAME, or --all")
    if args.forget and not args.all:
        raise UsageError("--forget goes with --all: what a machine has written is kept for 'rumplab logs'")
    lab = config.load()
    machines = open_machines(lab)
    chosen = machines.all() if args.all else [machines.find(args.name)]
    for machine in chosen:
        if not end(machines, machine, args.powerdown):
            raise RumplabError(
                f"{machine.name} (pid {machine.pid}) does not end; look at it with: ps {machine.pid}"
            )
        print(f"{machine.name} stopped")
    for path in places.forget(lab) if args.forget else ():
        print(f"{path} removed")
    if args.forget:
        temporary.sweep_work()
    return 0
