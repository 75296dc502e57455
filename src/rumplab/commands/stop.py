"""``rumplab stop``: ends machines. It asks QEMU first, then sends signals; each step has a time limit."""

from __future__ import annotations

import argparse

from rumplab.errors import RumplabError, UsageError
from rumplab.host import files
from rumplab.lab import config, places
from rumplab.machine.registry import open_machines
from rumplab.machine.shutdown import POWERDOWN_SECONDS, end

EPILOG = """\
QEMU is told to quit; if it doesn't, it gets SIGTERM and at last SIGKILL. Only the process that rumplab
started is ever signalled.

examples:
  rumplab stop hello
  rumplab stop netbsd --powerdown     press its power button and give it time to shut down
  rumplab stop --all
"""


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


def run(args: argparse.Namespace) -> int:
    if args.all == (args.name is not None):
        raise UsageError("name one machine, or use --all")
    if args.forget and not args.all:
        raise UsageError("--forget goes with --all; without it, the logs stay for 'rumplab logs'")
    lab = config.load()
    machines = open_machines(lab)
    chosen = machines.all() if args.all else [machines.find(args.name)]
    for machine in chosen:
        if not end(machines, machine, args.powerdown):
            raise RumplabError(f"{machine.name} (pid {machine.pid}) does not end; look at it with: ps {machine.pid}")
        print(f"{machine.name} stopped")
    for path in places.remove_all(lab) if args.forget else ():
        print(f"{path} removed")
    if args.forget:
        files.sweep_work()
    return 0
