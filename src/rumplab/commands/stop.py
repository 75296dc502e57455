"""``rumplab stop``: ends machines. It asks QEMU first, then sends signals; each step has a time limit."""

from __future__ import annotations

import argparse

from rumplab.errors import RumplabError, UsageError
from rumplab.host import files
from rumplab.lab import config, places
from rumplab.machine.registry import open_machines
from rumplab.machine.shutdown import POWERDOWN_SECONDS, end

EPILOG = """\
The command tells QEMU to quit; if QEMU doesn't, it sends SIGTERM, then SIGKILL. It signals only the process that
rumplab started.

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
        help="with --all, before the lab is uninstalled: also delete your records, guests and the guests' disks",
    )
    parser.add_argument(
        "--powerdown",
        action="store_true",
        help=f"press the power button first, and wait up to {POWERDOWN_SECONDS:.0f} s for the guest to shut down",
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
