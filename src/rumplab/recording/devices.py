"""Lists the devices that QEMU can record and replay. bench/replay.py measured them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rumplab.errors import UsageError
from rumplab.image import recognise
from rumplab.machine.disk_controllers import Disk
from rumplab.machine.nics import Nic

DEFAULT_NIC = "virtio"
# The releases of QEMU on which `bench/replay.py devices` recorded and replayed each device: Debian 12's and 13's.
MEASURED = ("7.2.22", "10.0.13")
# How many replays were as recorded, for each release: with a card that nothing used, with a card whose boot code asked
# for an address, and with a disk that booted.
CARDS = {"virtio": (5, 5), "e1000": (5, 5), "ne2k_pci": (5, 5), "rtl8139": (5, 5)}
BOOT_CODE = {"virtio": (6, 6), "e1000": (5, 5), "ne2k_pci": (5, 4), "rtl8139": (5, 5)}
DISKS = {
    "virtio": (10, 10),
    "ide": (10, 10),
    "lsi": (10, 10),
    "virtio-scsi": (10, 10),
    "cdrom": (5, 5),
    "mpt": (8, 8),
    "nvme": (0, 0),
}
CARD_ROUNDS, BOOT_ROUNDS, DISK_ROUNDS = 5, {"virtio": 6}, {"cdrom": 5}


def rounds(disk: str) -> int:
    """Returns how often a recording with this disk was replayed."""
    return DISK_ROUNDS.get(disk, 10)


NICS = tuple(name for name, counts in CARDS.items() if min(counts) == CARD_ROUNDS)
CONTROLLERS = tuple(name for name, counts in DISKS.items() if min(counts) == rounds(name))
# QEMU replays a run with such a card, but hangs after it has restored the card's state from a snapshot.
NEVER_RESTORED = ("e1000",)
# The formats whose disks are complete in one file.
FORMATS = (recognise.RAW, recognise.QCOW2)
ACCEL = "tcg"


def check_nics(cards: Sequence[Nic]) -> None:
    """Raises UsageError for the first card that QEMU can't replay."""
    for card in cards:
        if card.model not in NICS:
            raise UsageError(
                f"--record doesn't accept --nic {card.model}, since nobody has tested its replay; use one of"
                f" {', '.join(NICS)}"
            )


def replaced(cards: Sequence[Nic]) -> tuple[Nic, ...]:
    """Returns `cards` of a guest's definition for a recording: each with the default model becomes a DEFAULT_NIC. A
    card in a fixed slot stays, since the kernel was built for that card."""
    return tuple(
        replace(card, model=DEFAULT_NIC) if card.model == Nic.model and not card.slot else card for card in cards
    )


def explain_replaced(before: Sequence[Nic], after: Sequence[Nic]) -> str:
    """Returns a message about the cards that replaced() has changed, or an empty string."""
    if tuple(before) == tuple(after):
        return ""
    others = ", ".join(name for name in NICS if name not in (DEFAULT_NIC, Nic.model))
    return (
        f"while it is recorded, its card is a {DEFAULT_NIC} instead of an {Nic.model}, whose state QEMU can't restore;"
        f" if its kernel has no driver for that, make a guest with another --nic: {others}"
    )


def explain_nics(cards: Sequence[Nic], chosen: bool) -> str:
    """Returns a message about the cards of a recorded run, or an empty string. `chosen` says that the user gave
    --nic."""
    if not chosen and cards:
        return (
            f"the card is a {DEFAULT_NIC}, since QEMU can't restore the state of an e1000; with --nic e1000, a replay"
            " can start only at the beginning"
        )
    slow = [card.model for card in cards if card.model in NEVER_RESTORED]
    if slow:
        return (
            f"QEMU can't restore the state of an {slow[0]}: a replay of this recording can start only at the beginning,"
            " so reverse execution in a long recording is slow"
        )
    return ""


def check_disks(disks: Sequence[Disk]) -> None:
    """Raises UsageError for the first disk that QEMU can't replay, or that a recording can't contain."""
    for disk in disks:
        if disk.controller not in CONTROLLERS:
            raise UsageError(
                f"--record doesn't accept {disk.file} on controller {disk.controller}, since its replay hangs, or may"
                f" hang; use one of {', '.join(CONTROLLERS)}"
            )
        if disk.format not in FORMATS:
            raise UsageError(
                f"--record copies each disk, and {disk.file} ({disk.format}) may consist of several files; convert it"
                f" first: qemu-img convert -f {disk.format} -O qcow2 {disk.file} IMAGE"
            )


def check_accel(accel: str) -> None:
    """Raises UsageError for an accelerator that can't count the guest's instructions."""
    if accel not in ("auto", ACCEL):
        raise UsageError(
            f"--record counts instructions, which --accel {accel} can't; leave --accel out, or use --accel {ACCEL}"
        )


def check_extra(extra: Sequence[str]) -> None:
    """Raises UsageError for the user's own arguments to QEMU."""
    if extra:
        raise UsageError(
            f"--record can't tell which files '{extra[0]}' needs for a replay; leave out '--' and what follows it (a"
            " recording has one CPU)"
        )
