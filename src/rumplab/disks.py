"""The disk controllers that an image can be attached to. Nothing here runs anything."""

from __future__ import annotations

from dataclasses import dataclass

NONE = "none"
SCSI_BUS = "scsi0"
DRIVE = "disk0"


@dataclass(frozen=True)
class Controller:
    """`devices` are values of -device that attach drive DRIVE. `id` is PCI's first dword: device, vendor."""

    devices: tuple[str, ...]
    id: int

    @property
    def name(self) -> str:
        """vendor:device, as lspci prints them."""
        return f"{self.id & 0xFFFF:04x}:{self.id >> 16:04x}"


def scsi(host: str, number: int) -> Controller:
    """A SCSI host adapter with the drive as its first disk."""
    return Controller((f"{host},id={SCSI_BUS}", f"scsi-hd,drive={DRIVE},bus={SCSI_BUS}.0"), number)


CONTROLLERS = {
    "virtio": Controller((f"virtio-blk-pci,drive={DRIVE}",), 0x1001_1AF4),
    # The board's own, so there is no device to add but the disk.
    "ide": Controller((f"ide-hd,drive={DRIVE}",), 0x7010_8086),
    "lsi": scsi("lsi53c895a", 0x0012_1000),
    "mpt": scsi("mptsas1068", 0x0054_1000),
    "virtio-scsi": scsi("virtio-scsi-pci", 0x1004_1AF4),
    "nvme": Controller((f"nvme,drive={DRIVE},serial=rumplab",), 0x0010_1B36),
}
CHOICES = (*CONTROLLERS, NONE)


def argv(controller: str) -> list[str]:
    """The options that attach drive DRIVE to `controller`, one of CONTROLLERS."""
    return [word for device in CONTROLLERS[controller].devices for word in ("-device", device)]
