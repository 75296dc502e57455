"""Which of a machine's devices QEMU repeats as they were; bench/replay.py tries each."""

from __future__ import annotations

from collections.abc import Sequence

from rumplab.errors import UsageError
from rumplab.image import recognise
from rumplab.machine.disk_controllers import Disk
from rumplab.machine.nics import Nic

DEFAULT_NIC = "virtio"
NICS = ("virtio", "ne2k_pci", "rtl8139", "e1000")
# QEMU repeats a run with one of these, but never answers once it has restored such a card's state.
NEVER_RESTORED = ("e1000",)
CONTROLLERS = ("virtio", "ide", "lsi", "virtio-scsi", "cdrom", "mpt")
# Of these only without --snapshot: with it, a replay may stop answering.
NOT_THROWN_AWAY = ("mpt",)
# A copy of a disk of these has all that the disk has.
FORMATS = (recognise.RAW, recognise.QCOW2)
ACCEL = "tcg"


def check_nics(cards: Sequence[Nic]) -> None:
    """UsageError names the first card that can't be repeated."""
    for card in cards:
        if card.model not in NICS:
            raise UsageError(
                f"nobody has tried whether QEMU repeats a run with a {card.model}, so --record doesn't take --nic"
                f" {card.model}; use one of {', '.join(NICS)}"
            )


def explain_nics(cards: Sequence[Nic], chosen: bool) -> str:
    """What a user should know of the cards of a run that is recorded, which they have `chosen` themselves or not;
    nothing where there is nothing to say."""
    if not chosen and cards:
        return (
            f"the card is a {DEFAULT_NIC}: QEMU can't restore the state of an e1000, so that a recording with one"
            " repeats from its beginning only; --nic e1000 makes it all the same"
        )
    slow = [card.model for card in cards if card.model in NEVER_RESTORED]
    if slow:
        return (
            f"QEMU can't restore the state of an {slow[0]}: this recording repeats from its beginning only, which makes"
            " the way back slow where it is long"
        )
    return ""


def check_disks(disks: Sequence[Disk]) -> None:
    """UsageError names the first disk that can't be repeated, or kept."""
    for disk in disks:
        if disk.controller not in CONTROLLERS:
            raise UsageError(
                f"QEMU's replay of a disk on controller {disk.controller} stops answering, so --record doesn't take"
                f" {disk.file} there; use one of {', '.join(CONTROLLERS)}"
            )
        if disk.controller in NOT_THROWN_AWAY and disk.snapshot:
            raise UsageError(
                f"QEMU's replay of a disk on controller {disk.controller} whose writes were thrown away may stop"
                f" answering; record the run without --snapshot, on a copy of {disk.file}"
            )
        if disk.format not in FORMATS:
            raise UsageError(
                f"--record keeps a copy of each disk, and {disk.file} ({disk.format}) may be more than one file;"
                f" convert it first: qemu-img convert -f {disk.format} -O qcow2 {disk.file} IMAGE"
            )


def check_accel(accel: str) -> None:
    """UsageError for an accelerator that runs the guest itself, where nobody counts its instructions."""
    if accel not in ("auto", ACCEL):
        raise UsageError(
            f"--record counts each instruction, which --accel {accel} can't; leave --accel out, or use --accel {ACCEL}"
        )


def check_extra(extra: Sequence[str]) -> None:
    """UsageError for arguments that go to QEMU as they are."""
    if extra:
        raise UsageError(
            f"--record keeps all that a replay takes, and can't tell that of '{extra[0]}'; leave out '--' and what"
            " follows it (a recording has one CPU)"
        )
