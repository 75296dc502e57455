"""Disk controllers on QEMU's command line."""

from __future__ import annotations

import pytest

from rumplab.machine import disk_controllers, qemu_argv


@pytest.mark.parametrize(
    ("disk", "devices", "name"),
    [
        ("virtio", ["virtio-blk-pci,drive=disk0"], "1af4:1001"),
        ("ide", ["ide-hd,drive=disk0"], "8086:7010"),
        ("lsi", ["lsi53c895a,id=scsi0", "scsi-hd,drive=disk0,bus=scsi0.0"], "1000:0012"),
        ("mpt", ["mptsas1068,id=scsi0", "scsi-hd,drive=disk0,bus=scsi0.0"], "1000:0054"),
        ("virtio-scsi", ["virtio-scsi-pci,id=scsi0", "scsi-hd,drive=disk0,bus=scsi0.0"], "1af4:1004"),
        ("nvme", ["nvme,drive=disk0,serial=rumplab"], "1b36:0010"),
    ],
)
def test_controllers(disk: str, devices: list[str], name: str) -> None:
    argv = qemu_argv.boot_argv(qemu_argv.Spec(qemu="/q", gdb_port=1, accel="tcg", image="/x.img", disk=disk))
    assert argv[:2] == ["-drive", "file=/x.img,format=raw,id=disk0,if=none"]
    assert argv[2::2] == ["-device"] * len(devices)
    assert argv[3::2] == devices
    assert disk_controllers.CONTROLLERS[disk].name == name


def test_the_choices_are_the_controllers_and_none() -> None:
    assert disk_controllers.CHOICES == ("virtio", "ide", "lsi", "mpt", "virtio-scsi", "nvme", "none")
