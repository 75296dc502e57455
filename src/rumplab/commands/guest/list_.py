"""``rumplab guest list``: lists the guests with their state."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rumplab import output
from rumplab.errors import NotProvisioned, RumplabError
from rumplab.guest import ipkdb, kernel_debugger, kernels, lines
from rumplab.guest.definition import IPKDB, Guest, keeps_disk, open_guests, running
from rumplab.guest.lines import DEBUGGER
from rumplab.guest.starting import ssh_port
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine.registry import Machine, open_machines
from rumplab.machine.run_state import run_state

EPILOG = """\
STATE is 'stopped' if the guest isn't started, 'waits' while its kernel waits for its first debugger, else QEMU's state.
DEBUGGER is 'attached' while a debugger is attached; if the guest was started with --ipkdb, it is else the address of
its IPKDB. DISK is 'kept' if --persist has kept what the guest wrote, 'fresh' if not, '-' if the guest has no disk.

examples:
  rumplab guest list
  rumplab guest list --json
"""
HEADER = ["NAME", "STATE", "SYSTEM", "DEBUGGER", "SSH", "DISK", "KERNEL"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def state(machine: Machine | None, debugged: bool) -> str:
    """Returns QEMU's run state, 'waits' if the kernel waits for its first debugger, or 'stopped' if no machine runs.
    `debugged` says whether a debugger is attached now."""
    if machine is None:
        return "stopped"
    found = run_state(machine)
    if machine.guest == IPKDB:
        return "waits" if found == "running" and ipkdb.waits(machine) and not debugged else found
    waits = found == "running" and kernel_debugger.waits(machine) and kernel_debugger.first_time(machine)
    return "waits" if waits else found


def attached(machine: Machine | None, lab: Lab) -> bool:
    """Returns whether a debugger is attached, to the kernel's serial line or over IPKDB."""
    try:
        if machine is not None and machine.guest == IPKDB:
            return ipkdb.debugger(machine, lab) is not None
        return machine is not None and lines.taken(machine, DEBUGGER)
    except RumplabError:
        # The machine has ended meanwhile, or doesn't answer yet.
        return False


def reached(machine: Machine | None, lab: Lab) -> str | None:
    """Returns the address of the guest's IPKDB as IP:PORT; 'bridge' if it has no lease there yet; None if the guest was
    not started with --ipkdb."""
    if machine is None or machine.guest != IPKDB:
        return None
    place = ipkdb.place(machine, lab)
    return f"{place[0]}:{place[1]}" if place else "bridge"


def described(
    guest: Guest, machine: Machine | None, kernel: kernels.Kernel | None, kept: bool, lab: Lab
) -> dict[str, Any]:
    """Returns a guest's data for --json. `kernel` is None if the kernel's files don't exist."""
    debugged = attached(machine, lab)
    return {
        "name": guest.name,
        "kind": guest.kind,
        "arch": guest.arch,
        "release": kernel.release if kernel else guest.release,
        "kernel": kernel.file if kernel else guest.kernel,
        "symbols": kernel.symbols if kernel else guest.symbols,
        "disk": kernel.disk if kernel else guest.disk,
        "kept": kept,
        "state": state(machine, debugged),
        "debugger": debugged,
        "ipkdb": reached(machine, lab),
        "pid": machine.pid if machine else None,
        "ssh": ssh_port(machine) if machine else None,
        "stub": machine.stub if machine else None,
    }


def row(data: dict[str, Any]) -> list[str]:
    system = data["kind"] + (f"-{data['release']}" if data["release"] else "") + f"/{data['arch']}"
    return [
        data["name"],
        data["state"],
        system,
        "attached" if data["debugger"] else f"ipkdb {data['ipkdb']}" if data["ipkdb"] else "-",
        f"127.0.0.1:{data['ssh']}" if data["ssh"] else "-",
        "kept" if data["kept"] else "-" if data["disk"] is None else "fresh",
        data["kernel"] or "not built yet",
    ]


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    guests, machines = open_guests(lab), open_machines(lab)
    found: list[dict[str, Any]] = []
    damaged: list[str] = []
    for guest in guests.all(damaged.append):
        kernel: kernels.Kernel | None = None
        try:
            kernel = kernels.resolve(lab, guest)
        except (NotProvisioned, RumplabError):
            # List the guest even if its files are lost: `guest start` reports the error.
            kernel = None
        machine = running(machines, guest.name)
        found.append(described(guest, machine, kernel, keeps_disk(guests.directory(guest.name)), lab))
    print(output.as_json(found) if args.json else output.table(HEADER, map(row, found)))
    for what in damaged:
        print(f"rumplab guest list: {what}", file=sys.stderr)
    return 1 if damaged else 0
