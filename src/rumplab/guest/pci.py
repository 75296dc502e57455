"""``rumplab guest pci``: the PCI devices that a NetBSD guest sees, and which driver has each."""

from __future__ import annotations

import argparse
import re
from typing import Any

from rumplab import config, output
from rumplab.errors import RumplabError, UsageError
from rumplab.guest import attach, shell, stub
from rumplab.guest.console import Console
from rumplab.guest.definition import LINUX, open_guests, require_running
from rumplab.guest.hardware import DEBUGGER
from rumplab.machines import open_machines

HELP = "the PCI devices of a guest, with their drivers"
EPILOG = """\
Runs pcictl(8) in a shell on the guest's console, where it logs in as root if that takes no password. pcictl names
drivers from NetBSD 8 on; for earlier releases the lab's own is taken from the guest's CD drive. While the kernel is
stopped in its debugger, 'nb-pci' in 'rumplab guest debug NAME' shows the same.

examples:
  rumplab guest pci nb
  rumplab guest pci nb --json
"""
# A line of pcictl's list: bus:device:function: description [driver]
DEVICE = re.compile(r"^(\d+):(\d+):(\d+): (.*?)(?: \[(\w+)\])?$")
COMMAND_SECONDS = 20.0
MOST_BUSES = 16
OWN = "/mnt/pcictl"
HEADER = ["BUS", "DEVICE", "FUNCTION", "DESCRIPTION", "DRIVER"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the guest")
    parser.add_argument("--json", action="store_true", help="print JSON")


def parse(text: str) -> list[dict[str, Any]]:
    """The devices in what ``pcictl list -N`` has printed; lines of other kinds are passed over."""
    found = (DEVICE.match(line.strip()) for line in text.splitlines())
    return [
        {
            "bus": int(match[1]),
            "device": int(match[2]),
            "function": int(match[3]),
            "description": match[4],
            "driver": match[5],
        }
        for match in found
        if match
    ]


def knows_names(said: str) -> bool:
    """Whether a pcictl that has said this takes -N."""
    return re.search(r"illegal option|unknown option|usage:", said, re.IGNORECASE) is None


def ask(console: Console, pcictl: str, bus: int) -> str:
    return shell.run(console, f"{pcictl} pci{bus} list -N", COMMAND_SECONDS)


def listed(console: Console) -> list[dict[str, Any]]:
    """The guest's devices, bus by bus up to the first that isn't there. RumplabError when there are none."""
    pcictl = "pcictl"
    said = ask(console, pcictl, 0)
    if not knows_names(said):
        shell.run(console, "mount -t cd9660 -o ro /dev/cd0a /mnt", COMMAND_SECONDS)
        pcictl = OWN
        said = ask(console, pcictl, 0)
    found: list[dict[str, Any]] = []
    for bus in range(1, MOST_BUSES):
        devices = parse(said)
        found += devices
        if not devices:
            break
        said = ask(console, pcictl, bus)
    if not found:
        raise RumplabError(
            f"pcictl on {console.machine.name} has listed no devices; it said: {said.strip() or 'nothing'}"
        )
    return found


def row(device: dict[str, Any]) -> list[str]:
    places = [str(device[name]) for name in ("bus", "device", "function")]
    return [*places, device["description"], device["driver"] or "-"]


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    guest = open_guests(lab).find(args.name)
    machine = require_running(open_machines(lab), guest)
    if guest.kind == LINUX:
        raise UsageError(f"{guest.name} is Linux; 'guest pci' asks NetBSD's pcictl")
    stub.require_executing(machine)
    if not attach.taken(machine, DEBUGGER) and stub.stopped(machine):
        raise RumplabError(
            f"{guest.name} is stopped in its debugger; let it go on, or ask there:"
            f" rumplab guest debug {guest.name} --batch --ex nb-pci"
        )
    with Console(machine) as console:
        shell.require(console)
        found = listed(console)
    print(output.as_json(found) if args.json else output.table(HEADER, map(row, found)))
    return 0
