"""``rumplab ps``: lists the running machines."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

from rumplab import output
from rumplab.host import process
from rumplab.lab import config
from rumplab.machine.registry import Machine, open_machines
from rumplab.machine.run_state import run_state

EPILOG = """\
STATE is QEMU's: 'prelaunch' waits before the first instruction, 'paused' is held by a debugger. GDB says where the
debug stub is: 'socket', which only you can open, or a TCP port (--gdb-port). CONSOLE is 'serial' (see 'rumplab logs')
or 'vga' (see 'rumplab screen').

examples:
  rumplab ps
  rumplab ps --json
"""
SECONDS = {"d": 86400, "h": 3600, "m": 60}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def age(seconds: float) -> str:
    """Returns a duration in its largest unit, rounded down: 42s, 7m, 3h, 2d."""
    for unit, length in SECONDS.items():
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def running_for(machine: Machine, now: float) -> float:
    """Returns for how many seconds the machine has been running. `now`, UNIX time, only counts where the system doesn't
    tell the process's start, since the clock may have been set meanwhile."""
    seconds = process.seconds_since(machine.token)
    return max(now - machine.since, 0) if seconds is None else seconds


def described(machine: Machine) -> dict[str, Any]:
    """Returns a machine's record and state, for --json."""
    return {**asdict(machine), "stub": machine.stub, "state": run_state(machine)}


def row(machine: Machine, now: float) -> list[str]:
    return [
        machine.name,
        run_state(machine),
        str(machine.pid),
        machine.stub if machine.gdb_port else "socket",
        machine.accel,
        machine.console or "serial",
        age(running_for(machine, now)),
        machine.image or machine.program or "",
    ]


def run(args: argparse.Namespace) -> int:
    machines = open_machines(config.load()).all()
    if args.json:
        print(output.as_json([described(machine) for machine in machines]))
        return 0
    rows = [row(machine, time.time()) for machine in machines]
    print(output.table(["NAME", "STATE", "PID", "GDB", "ACCEL", "CONSOLE", "AGE", "BOOTED FROM"], rows))
    return 0
