"""--drive: parsing, the controller of each disk, its name in the guest, and drives in use."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.labfixture import LabPrefix
from support.running import DONE, detach, started, until

from rumplab.cli import drive_options
from rumplab.cli.drive_options import DriveOption
from rumplab.errors import UsageError
from rumplab.machine import disk_controllers, launch
from rumplab.machine.disk_controllers import Disk

ISO_SIZE = 0x9000


def iso(path: Path) -> Path:
    """Write a file that has only the magic of a CD's file system (ISO 9660)."""
    content = bytearray(ISO_SIZE)
    content[0x8001:0x8006] = b"CD001"
    path.write_bytes(content)
    return path


def blank(path: Path) -> Path:
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.img", DriveOption("a.img")),
        ("a.img,disk=mpt,format=qcow2,snapshot", DriveOption("a.img", "mpt", "qcow2", True)),
        ("a,,b,,,disk=ide", DriveOption("a,b,", "ide")),
    ],
)
def test_what_a_drive_asks_for(text: str, expected: DriveOption) -> None:
    assert drive_options.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no file"),
        (",disk=ide", "names no file"),
        ("a,disc=ide", "'disc=ide' in 'a,disc=ide' is not a setting"),
        ("a,snapshot=on", "is not a setting"),
        ("a,disk=ide,disk=mpt", "is not a setting"),
        ("a,disk=floppy", "disk can't be 'floppy'; use one of virtio, ide"),
        ("a,format=vdi", "format can't be 'vdi'"),
    ],
)
def test_an_invalid_drive_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(message)):
        drive_options.parse(text)


def test_disks_of_one_kind_share_an_adapter_and_the_first_boots() -> None:
    words = disk_controllers.argv(
        [Disk("/x", controller="mpt"), Disk("/y", "qcow2", snapshot=True), Disk("/z,", controller="mpt")], boots=True
    )
    assert words[1::2] == [
        "file=/x,format=raw,id=disk0,if=none",
        "mptsas1068,id=scsi0",
        "scsi-hd,drive=disk0,bus=scsi0.0,bootindex=0",
        "file=/y,format=qcow2,id=disk1,snapshot=on,if=none",
        "virtio-blk-pci,drive=disk1",
        "file=/z,,,format=raw,id=disk2,if=none",
        "scsi-hd,drive=disk2,bus=scsi0.0",
    ]


def test_a_cd_is_read_only_and_boots_before_the_disks_that_the_firmware_knows() -> None:
    assert disk_controllers.argv([Disk("/c.iso", controller=disk_controllers.CDROM)], boots=True)[1::2] == [
        "file=/c.iso,format=raw,id=disk0,media=cdrom,readonly=on,if=none",
        "ide-cd,drive=disk0,bootindex=0",
    ]


def test_the_guest_numbers_a_drivers_disks_in_the_order_of_the_adapters() -> None:
    kinds = ("virtio", "mpt", "ide", "nvme", "lsi", "mpt", "cdrom", "virtio")
    found = disk_controllers.names([Disk(f"/{number}", controller=kind) for number, kind in enumerate(kinds)])
    # The second disk on mpt comes before the disk on lsi, since the adapter of mpt comes first on PCI.
    assert found == ["ld0", "sd0", "wd0", "ld1", "sd2", "sd1", "cd0", "ld2"]


def test_a_controller_has_a_maximum_of_disks_and_a_machine_has_a_file_once() -> None:
    four = [Disk(f"/{number}", controller="ide") for number in range(4)]
    disk_controllers.check(four)
    with pytest.raises(UsageError, match="ide takes 4 disks, not 5"):
        disk_controllers.check([*four, Disk("/cd", controller=disk_controllers.CDROM)])
    with pytest.raises(UsageError, match="/0 is given 2 times"):
        disk_controllers.check([*four, replace(four[0], controller="virtio")])


def test_a_locked_file_is_named_as_qemu_names_it() -> None:
    log = 'qemu: -device x: Failed to get "write" lock\nIs another process using the image [/b.img]?\n'
    assert "/b.img is locked by a process" in launch.explain(1, log, [("/a.img", True), ("/b.img", True)])


@pytest.mark.qemu
def test_every_kind_at_once_is_found_by_a_program(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    files = [blank(tmp_path / f"{number}, ü.img") for number in range(9)]
    kinds = ("mpt", "ide", "ide", "ide", "lsi", "mpt", "nvme", "virtio", "virtio-scsi")
    words = [f"{str(file).replace(',', ',,')},disk={kind}" for file, kind in zip(files, kinds, strict=True)]
    result = detach(lab, pcihello, *(word for drive in words for word in ("--drive", drive)))
    assert result.returncode == 0, result.stderr
    assert f"rumplab: disk sd1: {files[5]} (mpt)" in result.stderr
    assert f"rumplab: disk wd2: {files[3]} (ide)" in result.stderr
    until(lambda: DONE in lab.tool("logs", "pcihello").stdout)
    found = re.findall(r"^00:\S+ (\S+) class 01", lab.tool("logs", "pcihello").stdout.replace("\r", ""), re.M)
    # In the order of the options, with one adapter for both disks on mpt.
    assert found == ["8086:7010", "1000:0054", "1000:0012", "1b36:0010", "1af4:1001", "1af4:1004"]


@pytest.mark.qemu
def test_a_drive_in_use_is_refused_with_the_machines_name(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.img"
    # With a boot sector's signature, since it is also passed as the image.
    data.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 20))
    started(lab, pcihello, "--wait", "--name", "first", "--drive", data)
    for words in ((pcihello, "--drive", data), (pcihello, "--drive", f"{data},snapshot"), (data,)):
        refused = detach(lab, *words)
        assert refused.returncode == 1
        assert f"{data} is in use by machine 'first' (pid " in refused.stderr
    assert lab.tool("stop", "first").returncode == 0
    started(lab, pcihello, "--wait", "--drive", f"{data},snapshot")
    started(lab, pcihello, "--wait", "--drive", f"{data},snapshot")


@pytest.mark.qemu
def test_a_drive_that_another_process_has_locked_is_refused_with_its_name(
    lab: LabPrefix, pcihello: Path, tmp_path: Path
) -> None:
    data = blank(tmp_path / "data.img")
    # QEMU locks single bytes of the file, so the test needs a QEMU to hold those locks.
    argv = ["qemu-system-x86_64", "-S", "-display", "none", "-accel", "tcg"]
    emulator = subprocess.Popen([*argv, "-drive", f"file={data},format=raw,if=virtio"], stdin=subprocess.DEVNULL)
    try:
        until(lambda: str(data) in "".join(map(str, opened(emulator.pid))))
        refused = detach(lab, pcihello, "--drive", data)
    finally:
        emulator.kill()
        emulator.wait(10)
    assert refused.returncode == 1
    assert f"{data} is locked by a process that is none of your machines (" in refused.stderr
    assert f"pid {emulator.pid}" in refused.stderr


def opened(pid: int) -> list[Path]:
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(descriptor.readlink())
        except OSError:
            continue
    return found


@pytest.mark.qemu
def test_a_cd_is_shared_and_is_left_as_it_is(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    cd = iso(tmp_path / "x.iso")
    first = started(lab, cd, "--wait")
    assert first["console"] == "vga"
    assert started(lab, pcihello, "--wait", "--drive", cd)["drives"][0]["controller"] == "cdrom"
    refused = detach(lab, cd, "--wait", "--disk", "virtio")
    assert f"{cd} is in use by machine 'pcihello'" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--drive", "/nonexistent/x"), 1, "/nonexistent/x does not exist; make an empty disk with: truncate"),
        (("--drive", "/tmp"), 1, "/tmp is no file"),
        (("--drive", sys.executable), 2, "is a program, not a disk"),
        (("--rumprun-schema", "old"), 2, "--rumprun-schema is for --config"),
        (("--config", "/nonexistent.yml"), 1, "cannot read /nonexistent.yml"),
    ],
)
def test_bad_drives_and_configurations(
    lab: LabPrefix, pcihello: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = detach(lab, pcihello, *arguments)
    assert (result.returncode, lab.machines()) == (code, [])
    assert message in result.stderr


CONFIG = "rc: [{bin: hello, args: [one]}]\nmount: {/data: {source: blk, path: /dev/ld0e}}\n"


@pytest.mark.qemu
def test_a_programs_configuration_is_its_module(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    config = tmp_path / "hello, world.yml"
    config.write_text(CONFIG, encoding="utf-8")
    words = ("run", pcihello, "--exit-device", "--accel", "tcg", "--config", config)
    result = lab.tool(*words)
    assert '"/dev/ld0e"' in result.stdout, result.stderr
    assert re.search(r"^pcihello: module 0: \d+ bytes, ", result.stdout, re.M)
    older = lab.tool(*words, "--rumprun-schema", "old")
    assert '"cmdline"' in older.stdout, older.stderr
    printed = lab.tool(*words, "--dry-run")
    line = ["sh", "-c", printed.stdout]
    ran = subprocess.run(line, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert b'"/dev/ld0e"' in ran.stdout, ran.stderr


def test_an_image_has_its_own_configuration(lab: LabPrefix, tmp_path: Path) -> None:
    result = detach(lab, blank(tmp_path / "x.img"), "--config", "c.yml")
    assert result.returncode == 2
    assert "--config is for a program" in result.stderr
