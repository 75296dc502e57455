"""``rumplab guest pci``: lists the PCI devices that a NetBSD guest sees, with the driver of each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from rumplab import output
from rumplab.errors import RumplabError, UsageError
from rumplab.guest import kernel_debugger, shell
from rumplab.guest.console import Console
from rumplab.guest.definition import LINUX, open_guests, require_running
from rumplab.lab import config
from rumplab.machine.registry import open_machines

EPILOG = """\
For a NetBSD guest that runs: the command types pcictl(8) into a shell on the guest's console, and logs in as root first
if that needs no password. pcictl can name drivers from NetBSD 8 on; where the guest's can't, the command uses the lab's
own pcictl, if that is in the guest's CD drive. While the kernel is stopped in its debugger, use the GDB command
'nb-pci' in 'rumplab guest debug NAME'.

examples:
  rumplab guest pci nb
  rumplab guest pci nb --json
"""
# A line that `pcictl list` prints: bus:device:function: description [driver]
DEVICE = re.compile(r"^([0-9]{1,3}):([0-9]{1,3}):([0-9]{1,3}): (.*?)(?: \[(\w+)\])?$")
COMMAND_SECONDS = 20.0
MOST_BUSES = 16
# The commands to try, in this order: one to run before or None, and the one that lists a bus. First the guest's own
# pcictl with drivers' names, then the lab's pcictl on the CD, then the guest's own without names.
ATTEMPTS = (
    (None, "pcictl pci{} list -N"),
    ("mount -t cd9660 -o ro /dev/cd0a /mnt", "/mnt/pcictl pci{} list -N"),
    (None, "pcictl pci{} list"),
)
HEADER = ["BUS", "DEVICE", "FUNCTION", "DESCRIPTION", "DRIVER"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the guest")
    parser.add_argument("--json", action="store_true", help="print JSON")


def parse(text: str) -> list[dict[str, Any]]:
    """Returns the devices in the output of ``pcictl list -N``. Skips other lines."""
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


def listed(console: Console) -> list[dict[str, Any]]:
    """Returns the devices of the guest's buses, up to the first bus that doesn't exist. RumplabError if there are
    none."""
    answers = []
    for before, form in ATTEMPTS:
        if before:
            shell.run(console, before, COMMAND_SECONDS)
        answers.append(shell.run(console, form.format(0), COMMAND_SECONDS))
        if parse(answers[-1]):
            return parse(answers[-1]) + list(on_further_buses(console, form))
    printed = answers[0].strip() or "nothing"
    raise RumplabError(f"pcictl on {console.machine.name} has listed no devices; it printed: {printed}")


def on_further_buses(console: Console, form: str) -> Iterator[dict[str, Any]]:
    """Yields the devices of the buses after bus 0. `form` is the command, with {} for the bus."""
    for bus in range(1, MOST_BUSES):
        devices = parse(shell.run(console, form.format(bus), COMMAND_SECONDS))
        if not devices:
            return
        yield from devices


def row(device: dict[str, Any]) -> list[str]:
    places = [str(device[name]) for name in ("bus", "device", "function")]
    return [*places, device["description"], device["driver"] or "-"]


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    guest = open_guests(lab).find(args.name)
    machine = require_running(open_machines(lab), guest)
    if guest.kind == LINUX:
        raise UsageError(f"{guest.name} is Linux; 'guest pci' asks NetBSD's pcictl")
    kernel_debugger.require_executing(machine)
    if kernel_debugger.in_debugger(machine):
        raise RumplabError(
            f"{guest.name} is stopped in its debugger; continue it, or list the devices there:"
            f" rumplab guest debug {guest.name} --batch --ex nb-pci"
        )
    with Console(machine) as console:
        shell.require(console)
        found = listed(console)
    print(output.as_json(found) if args.json else output.table(HEADER, map(row, found)))
    return 0
