"""Describes a recorded machine as data, from which each replay builds QEMU's command line.

A recording may come from somebody else. So its record has no command that is executed, only this description: it names
no file outside of the recording, no network, no socket and no program.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rumplab.errors import UsageError
from rumplab.host.answers import check_fields, typed
from rumplab.machine import disk_controllers, macs, nics
from rumplab.machine.disk_controllers import CDROM, CONTROLLERS, Disk
from rumplab.machine.nics import Nic
from rumplab.machine.qemu_argv import Spec
from rumplab.recording.devices import ACCEL, FORMATS

MODULE = "module"
MEMORY = re.compile("[1-9][0-9]{0,8}[MG]?", re.ASCII)
SLOTS = 32
# A guest's card for IPKDB comes on top of the user's.
MOST_CARDS = nics.MOST + 1
# The first serial port is the console, a second one the line of a kernel's debugger.
PORTS = (1, 2)


@dataclass(frozen=True)
class Drive:
    """A disk of the recording. `controller` is one of CONTROLLERS, or CDROM."""

    format: str
    controller: str


@dataclass(frozen=True)
class Card:
    """A network card. `model`, `mac` and `slot` are those of rumplab.machine.nics.Nic."""

    model: str
    mac: str
    slot: int


@dataclass(frozen=True)
class Hardware:
    """A recorded machine. `program` is the name of the recording's file that QEMU loads, with the command line
    `arguments` and, if `module` is true, with the file MODULE. If `boots` is true, the first of `disks` boots. The
    machine has `ports` serial ports."""

    memory: str
    program: str | None
    arguments: str | None
    module: bool
    boots: bool
    disks: tuple[Drive, ...]
    vga: bool
    cards: tuple[Card, ...]
    pci_bridge: bool
    exit_device: bool
    ports: int


def disk_name(number: int) -> str:
    """Returns the name of a disk's file in the recording."""
    return f"disk{number}"


def describe(spec: Spec, ports: int) -> Hardware:
    """Returns the description of the machine `spec` that records."""
    return Hardware(
        memory=spec.memory,
        program=spec.program,
        arguments=spec.arguments,
        module=spec.initrd is not None,
        boots=spec.image is not None,
        disks=tuple(Drive(disk.format, disk.controller) for disk in spec.disks),
        vga=spec.vga,
        cards=tuple(Card(card.model, card.mac, card.slot) for card in spec.nics),
        pci_bridge=spec.pci_bridge,
        exit_device=spec.exit_device,
        ports=ports,
    )


def machine(hardware: Hardware, emulator: str, sandbox: str | None) -> Spec:
    """Returns the machine that replays. It uses only files of the recording, and changes none. The log has the received
    packets, so the cards are on a user network that lets nothing out."""
    disks = tuple(
        Disk(disk_name(number), drive.format, drive.controller, snapshot=drive.controller != CDROM)
        for number, drive in enumerate(hardware.disks)
    )
    booted, drives = (disks[0], disks[1:]) if hardware.boots else (None, disks)
    return Spec(
        qemu=emulator,
        accel=ACCEL,
        sandbox=sandbox,
        memory=hardware.memory,
        image=booted.file if booted else None,
        image_format=booted.format if booted else FORMATS[0],
        disk=booted.controller if booted else disk_controllers.DEFAULT,
        snapshot=booted.snapshot if booted else False,
        program=hardware.program,
        arguments=hardware.arguments,
        initrd=MODULE if hardware.module else None,
        drives=drives,
        vga=hardware.vga,
        nics=tuple(Nic(card.model, nics.USER, card.mac, slot=card.slot) for card in hardware.cards),
        pci_bridge=hardware.pci_bridge,
        exit_device=hardware.exit_device,
    )


def from_data(data: dict[str, Any], parts: Collection[str]) -> Hardware:
    """Returns the description in `data`, of a recording with the files `parts`. An exception of
    rumplab.host.answers.MALFORMED if it describes no machine that rumplab records."""
    found = Hardware(
        **{
            **typed(data, dict),
            "disks": tuple(Drive(**typed(drive, dict)) for drive in typed(data["disks"], list)),
            "cards": tuple(Card(**typed(card, dict)) for card in typed(data["cards"], list)),
        }
    )
    for one in (found, *found.disks, *found.cards):
        check_fields(one)
    check(found, parts)
    return found


def check(found: Hardware, parts: Collection[str]) -> None:
    """ValueError for a value that rumplab never writes."""
    if not MEMORY.fullmatch(found.memory):
        raise ValueError(f"{found.memory!r} is not a memory size")
    if "\0" in (found.arguments or ""):
        raise ValueError("the program's command line has a NUL character")
    if (found.boots and not found.disks) or found.ports not in PORTS:
        raise ValueError("its disks or its serial ports are missing")
    named = [disk_name(number) for number in range(len(found.disks))]
    named += [MODULE] if found.module else []
    named += [found.program] if found.program is not None else []
    for name in named:
        if name not in parts:
            raise ValueError(f"the file {name!r} is missing")
    for drive in found.disks:
        if drive.format not in FORMATS or drive.controller not in (*CONTROLLERS, CDROM):
            raise ValueError(f"there is no {drive.format!r} disk on {drive.controller!r}")
    try:
        disk_controllers.check([Disk(name, drive.format, drive.controller) for name, drive in zip(named, found.disks)])
    except UsageError as error:
        raise ValueError(str(error)) from error
    if len(found.cards) > MOST_CARDS:
        raise ValueError(f"it has {len(found.cards)} network cards")
    for card in found.cards:
        if card.model not in nics.MODELS or not 0 <= card.slot < SLOTS or macs.parse(card.mac) != card.mac:
            raise ValueError(f"there is no card {card.model!r} with address {card.mac!r}")
