"""A machine's disks: their controllers, QEMU's options for them, and what the guest calls them.

Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rumplab.errors import UsageError

NONE = "none"
DEFAULT = "virtio"
CDROM = "cdrom"
# The board's own controller, which CD drives are on too: two buses with two places each.
IDE = "ide"
IDE_PLACES = 4


@dataclass(frozen=True)
class Controller:
    """`device` is QEMU's device for a disk. With `host` it is a disk of that SCSI host adapter. `places` is how many
    disks it takes, 0 if each is a controller of its own.

    `id` is PCI's first dword: device, vendor. `netbsd` is what NetBSD calls the disks, less the number.
    """

    device: str
    id: int
    netbsd: str
    host: str | None = None
    places: int = 0

    @property
    def name(self) -> str:
        """vendor:device, as lspci prints them."""
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
    """A file as a disk on one of CONTROLLERS, or with CDROM as a CD, which nobody writes to."""

    file: str
    format: str = "raw"
    controller: str = DEFAULT
    snapshot: bool = False

    @property
    def bus(self) -> str:
        """The one of CONTROLLERS that it is on."""
        return IDE if self.controller == CDROM else self.controller

    @property
    def writes(self) -> bool:
        """Whether the file is written to."""
        return not self.snapshot and self.controller != CDROM


def check(disks: Sequence[Disk]) -> None:
    """UsageError when a controller hasn't got that many places, or a file is on it twice."""
    files = [disk.file for disk in disks]
    for file in files:
        if files.count(file) > 1:
            raise UsageError(f"{file} is given {files.count(file)} times; a machine can have it once")
    for name, controller in CONTROLLERS.items():
        wanted = sum(disk.bus == name for disk in disks)
        if controller.places and wanted > controller.places:
            raise UsageError(
                f"controller {name} takes {controller.places} disks, and these are {wanted}; use disk=… for others"
            )


def argv(disks: Sequence[Disk], boots: bool, logged: bool = False) -> list[str]:
    """QEMU's options for `disks`. With `boots` the firmware boots the first, whatever the others hold. With `logged`,
    the order in which requests end goes through QEMU's log of the run."""
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
        mates = [other for other in range(len(disks)) if disks[other].bus == disk.bus]
        # A disk that is alone is what the firmware tries first anyway.
        alone = len(disks) == 1 and disk.controller != CDROM
        last = ",bootindex=0" if boots and number == 0 and not alone else ""
        words += ["-device", f"{device},drive={name}{place(disk.bus, mates.index(number), len(mates), adapters)}{last}"]
    return words


def place(bus: str, at: int, count: int, adapters: Mapping[str, str]) -> str:
    """The options of -device that say where on its controller the disk `at` of `count` is."""
    if bus in adapters:
        return f",bus={adapters[bus]}.0"
    if bus == "nvme":
        return f",serial=rumplab{at or ''}"
    # Left to itself, QEMU fills one bus of the board's controller, the second, and then fails.
    return f",bus=ide.{at // 2},unit={at % 2}" if bus == IDE and count > 1 else ""


def drive(disk: Disk, name: str) -> str:
    """The value of -drive that opens the file of `disk`."""
    options = f"file={disk.file.replace(',', ',,')},format={disk.format},id={name}"
    if disk.controller == CDROM:
        options += ",media=cdrom,readonly=on"
    return options + (",snapshot=on" if disk.snapshot else "") + ",if=none"


def names(disks: Sequence[Disk]) -> list[str]:
    """What NetBSD and rumprun call each of `disks`, as far as they have drivers for them.

    They number the disks of a driver as they find them: controllers by their place on PCI, where QEMU puts them in
    the order of its options, and the disks of one by their place on it.
    """
    found: dict[int, str] = {}
    counts: dict[str, int] = {}
    for number in _as_found(disks):
        controller = disks[number].controller
        kind = "cd" if controller == CDROM else CONTROLLERS[controller].netbsd
        found[number] = f"{kind}{counts.get(kind, 0)}"
        counts[kind] = counts.get(kind, 0) + 1
    return [found[number] for number in range(len(disks))]


def _as_found(disks: Sequence[Disk]) -> Iterable[int]:
    """The numbers of `disks` as a guest meets them: those of one SCSI adapter together, at the first one's place."""
    first: dict[str, int] = {}
    for number, disk in enumerate(disks):
        first.setdefault(disk.controller, number)

    def place(number: int) -> tuple[int, int]:
        name = disks[number].controller
        shared = name != CDROM and CONTROLLERS[name].host is not None
        return (first[name] if shared else number, number)

    return sorted(range(len(disks)), key=place)
