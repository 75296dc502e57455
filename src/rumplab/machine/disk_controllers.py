"""A machine's disks: their controllers, QEMU's options for them, and their names in the guest.

This module starts no program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rumplab.errors import UsageError

NONE = "none"
DEFAULT = "virtio"
CDROM = "cdrom"
# The board's own controller, which also has the CD drives. It has two buses with two units each.
IDE = "ide"
IDE_PLACES = 4


@dataclass(frozen=True)
class Controller:
    """A kind of disk controller.

    `device` is QEMU's device for a disk, `host` the SCSI host adapter for it, if it needs one. `places` is the number
    of disks that one controller takes; 0 means that each disk is a controller of its own. `id` is the first dword of
    PCI's configuration space: the device in the upper half, the vendor in the lower. `netbsd` is NetBSD's name of such
    a disk, without the number.
    """

    device: str
    id: int
    netbsd: str
    host: str | None = None
    places: int = 0

    @property
    def name(self) -> str:
        """The PCI id in lspci's form, vendor:device."""
        return f"{self.id & 0xFFFF:04x}:{self.id >> 16:04x}"


CONTROLLERS = {
    "virtio": Controller("virtio-blk-pci", 0x1001_1AF4, "ld"),
    IDE: Controller("ide-hd", 0x7010_8086, "wd", places=IDE_PLACES),
    "lsi": Controller("scsi-hd", 0x0012_1000, "sd", "lsi53c895a", 7),
    "mpt": Controller("scsi-hd", 0x0054_1000, "sd", "mptsas1068", 8),
    "virtio-scsi": Controller("scsi-hd", 0x1004_1AF4, "sd", "virtio-scsi-pci", 256),
    "nvme": Controller("nvme", 0x0010_1B36, "ld"),
}
CHOICES = (*CONTROLLERS, NONE)


@dataclass(frozen=True)
class Disk:
    """A file as a disk on one of CONTROLLERS, or as a read-only CD if `controller` is CDROM. With `snapshot`, QEMU
    discards what the guest writes."""

    file: str
    format: str = "raw"
    controller: str = DEFAULT
    snapshot: bool = False

    @property
    def bus(self) -> str:
        """The key of the disk's controller in CONTROLLERS."""
        return IDE if self.controller == CDROM else self.controller

    @property
    def writes(self) -> bool:
        """Whether the guest's writes change the file."""
        return not self.snapshot and self.controller != CDROM


def check(disks: Sequence[Disk]) -> None:
    """Raises UsageError if there are more disks than a controller takes, or if a file is given twice."""
    files = [disk.file for disk in disks]
    for file in files:
        if files.count(file) > 1:
            raise UsageError(f"{file} is given {files.count(file)} times; a machine can have it once")
    for name, controller in CONTROLLERS.items():
        wanted = sum(disk.bus == name for disk in disks)
        if controller.places and wanted > controller.places:
            raise UsageError(
                f"controller {name} takes {controller.places} disks, not {wanted}; put some on another with disk=…"
            )


def argv(disks: Sequence[Disk], boots: bool, logged: bool = False) -> list[str]:
    """Returns QEMU's options for `disks`. With `boots`, the firmware boots the first one, whatever the others
    contain. With `logged`, QEMU records the order in which the disks' requests end, or repeats it."""
    words: list[str] = []
    adapters: dict[str, str] = {}
    for number, disk in enumerate(disks):
        name = f"disk{number}"
        if logged:
            words += ["-drive", drive(disk, f"{name}-file")]
            words += ["-drive", f"driver=blkreplay,if=none,image={name}-file,id={name}"]
        else:
            words += ["-drive", drive(disk, name)]
        controller = CONTROLLERS[disk.bus]
        if controller.host and disk.bus not in adapters:
            adapters[disk.bus] = f"scsi{len(adapters)}"
            words += ["-device", f"{controller.host},id={adapters[disk.bus]}"]
        device = "ide-cd" if disk.controller == CDROM else controller.device
        on_bus = [other for other in range(len(disks)) if disks[other].bus == disk.bus]
        # The firmware tries a single hard disk first, so it needs no bootindex.
        alone = len(disks) == 1 and disk.controller != CDROM
        order = ",bootindex=0" if boots and number == 0 and not alone else ""
        address = place(disk.bus, on_bus.index(number), len(on_bus), adapters)
        words += ["-device", f"{device},drive={name}{address}{order}"]
    return words


def place(bus: str, at: int, count: int, adapters: Mapping[str, str]) -> str:
    """Returns the options of -device for the position of a disk on its controller. It is disk `at` of `count` there,
    counted from 0. `adapters` has the id of each SCSI host adapter."""
    if bus in adapters:
        return f",bus={adapters[bus]}.0"
    if bus == "nvme":
        return f",serial=rumplab{at or ''}"
    # Without these options QEMU puts all disks on the second bus, and fails when that is full.
    return f",bus=ide.{at // 2},unit={at % 2}" if bus == IDE and count > 1 else ""


def drive(disk: Disk, name: str) -> str:
    """Returns the value of -drive that opens the file of `disk` under the id `name`."""
    options = f"file={disk.file.replace(',', ',,')},format={disk.format},id={name}"
    if disk.controller == CDROM:
        options += ",media=cdrom,readonly=on"
    return options + (",snapshot=on" if disk.snapshot else "") + ",if=none"


def names(disks: Sequence[Disk]) -> list[str]:
    """Returns the name of each disk in NetBSD and rumprun, if they have a driver for it.

    They number the disks of a driver in the order in which they find them: first by the controller's slot on the PCI
    bus, then by the position on the controller. QEMU fills the slots in the order of its options.
    """
    found: dict[int, str] = {}
    counts: dict[str, int] = {}
    for number in _in_guest_order(disks):
        controller = disks[number].controller
        kind = "cd" if controller == CDROM else CONTROLLERS[controller].netbsd
        found[number] = f"{kind}{counts.get(kind, 0)}"
        counts[kind] = counts.get(kind, 0) + 1
    return [found[number] for number in range(len(disks))]


def _in_guest_order(disks: Sequence[Disk]) -> Iterable[int]:
    """Returns the indexes of `disks` in the order in which a guest finds them. The disks of one SCSI adapter follow
    each other, at the position of the first."""
    first: dict[str, int] = {}
    for number, disk in enumerate(disks):
        first.setdefault(disk.controller, number)

    def place(number: int) -> tuple[int, int]:
        name = disks[number].controller
        shared = name != CDROM and CONTROLLERS[name].host is not None
        return (first[name] if shared else number, number)

    return sorted(range(len(disks)), key=place)
