"""Turns a guest's definition into the plan and the files with which QEMU starts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from rumplab.errors import RumplabError, UsageError
from rumplab.guest import hardware
from rumplab.guest.definition import DIRECT, DISK, DISK_FORMAT, GRUB, Guest, keeps_disk
from rumplab.guest.kernels import Kernel
from rumplab.host import ports
from rumplab.host.files import sha256
from rumplab.machine import nics
from rumplab.machine.nics import Forward, Nic
from rumplab.machine.qemu_argv import Spec
from rumplab.machine.registry import Machine, Machines

SSH = 22
BOOT_IMAGE = "boot.img"
# With IPKDB, the values of `guest` in the record of a guest's machine.
KGDB = "kgdb"
RUN = "run"


@dataclass(frozen=True)
class Plan:
    """How a guest starts. `mode` is KGDB or IPKDB if the kernel waits in that debugger, else RUN. `disk` is the root
    disk's file, its format, and whether QEMU discards writes. With `kept`, the file is the overlay in the guest's
    directory; else it is the guest's original disk."""

    guest: Guest
    kernel: Kernel
    directory: Path
    mode: str
    root: str | None
    disk: tuple[str, str, bool] | None
    kept: bool

    @property
    def waits(self) -> bool:
        return self.mode != RUN

    @property
    def boot_image(self) -> Path | None:
        return self.directory / BOOT_IMAGE if self.kernel.boot == GRUB else None


def make_plan(guest: Guest, kernel: Kernel, directory: Path, mode: str, persist: bool) -> Plan:
    """The plan for starting `guest`. UsageError for `persist` without a disk. RumplabError when the path of a kernel
    that boots directly contains a blank."""
    if persist and kernel.disk is None:
        raise UsageError(f"{guest.name} has no disk to keep; omit --persist")
    if kernel.boot == DIRECT and any(blank in kernel.file for blank in " \t"):
        # QEMU's loader puts the path before the command line, and NetBSD skips only the first word.
        raise RumplabError(f"{kernel.file} boots directly, so its path can't contain a blank; rename or move it")
    kept = persist or keeps_disk(directory)
    disk = None
    if kernel.disk is not None:
        file = (str(directory / DISK), DISK_FORMAT) if kept else (kernel.disk, guest.disk_format)
        disk = (*file, not persist)
    root = hardware.root_device(guest, kernel, boot_disk=kernel.boot == GRUB)
    return Plan(guest, kernel, directory, mode, root, disk, kept)


def with_ssh(cards: tuple[Nic, ...], avoid: Collection[int]) -> tuple[Nic, ...]:
    """`cards`, where the first card on a user network forwards a port of the host to the guest's ssh. IPKDB's card is
    skipped; the port is free and not in `avoid`. `cards` are unchanged if that card already forwards to ssh."""
    at = next((number for number, card in enumerate(cards) if card.net == nics.USER and not card.slot), None)
    if at is None or any(forward.guest == SSH and forward.protocol == "tcp" for forward in cards[at].forwards):
        return cards
    forward = Forward("tcp", ports.free(avoid), SSH)
    card = replace(cards[at], forwards=(*cards[at].forwards, forward))
    return (*cards[:at], card, *cards[at + 1 :])


def ssh_port(machine: Machine) -> int | None:
    """The port of 127.0.0.1 that is forwarded to the guest's ssh; None when there is none."""
    return next((item.host for item in machine.forwards if item.guest == SSH and item.protocol == "tcp"), None)


def record(plan: Plan, spec: Spec) -> Machine:
    """The machine's record before the registry has assigned its directory."""
    symbols = plan.kernel.symbols
    return Machine(
        name=plan.guest.name,
        directory="",
        image=plan.disk[0] if plan.disk else None,
        program=symbols,
        program_sha256=sha256(symbols) if symbols else None,
        snapshot=plan.disk[2] if plan.disk else False,
        nics=spec.nics,
        accel=spec.accel,
        guest=plan.mode,
    )


def prepare(plan: Plan, qemu_img: str, machines: Machines) -> None:
    """Makes the overlay and the boot disk, where the plan has them. RumplabError when there is no space, or when the
    overlay doesn't fit its base."""
    # Imported only here and in print_commands(): few starts need these modules, and loading them takes longer than
    # starting the guest.
    if plan.kept and plan.kernel.disk is not None:
        from rumplab.guest import overlay

        overlay.provide(qemu_img, plan.directory, plan.kernel.disk, plan.guest.disk_format, machines)
    if plan.boot_image:
        from rumplab.guest import bootdisk

        bootdisk.provide(plan.boot_image, Path(plan.kernel.file), plan.root, plan.waits)
