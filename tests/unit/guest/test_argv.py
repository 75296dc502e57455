"""The arguments of a guest's QEMU and of its kernel, without running a guest."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import rumplab
from rumplab.commands.guest import debug, start
from rumplab.errors import RumplabError, UsageError
from rumplab.gdb import command_line
from rumplab.gdb.kgdb_commands import KgdbSession
from rumplab.guest import debugger, definition, hardware, starting
from rumplab.guest.definition import DIRECT, GRUB, LINUX, NETBSD, Guest
from rumplab.guest.kernels import Kernel
from rumplab.image import grub, multiboot
from rumplab.lab.config import Lab
from rumplab.machine import nics
from rumplab.machine.nics import Forward, Nic
from rumplab.machine.qemu_argv import Spec
from rumplab.machine.registry import Machine

GUEST = Guest("nb", NETBSD, "i386", disk="/disk.img", nics=(Nic(),))
KERNEL = Kernel("/netbsd", "/netbsd.gdb", DIRECT, disk="/disk.img")


def header(flags: int) -> bytes:
    checksum = -(multiboot.MAGIC + flags) & 0xFFFFFFFF
    return b"".join(number.to_bytes(4, "little") for number in (multiboot.MAGIC, flags, checksum))


def elf(bits: int, machine: int = 3, rest: bytes = b"") -> bytes:
    head = b"\x7fELF" + bytes([bits // 32, 1]) + bytes(10) + (2).to_bytes(2, "little") + machine.to_bytes(2, "little")
    return head + rest


def test_netbsd_takes_its_flags_first() -> None:
    words = hardware.command_line(GUEST, "wd0a", waits=True).split()
    assert words == ["-d", "root=wd0a", "console=com", "console_speed=115200"]
    assert hardware.command_line(GUEST, None, waits=False) == "console=com console_speed=115200"


def test_linux_has_separate_ports_for_console_and_debugger() -> None:
    linux = replace(GUEST, kind=LINUX, append="init=/bin/sh loglevel=8")
    words = hardware.command_line(linux, "/dev/sda", waits=True).split()
    assert words[:5] == ["console=ttyS0,115200", "kgdboc=ttyS1,115200", "nokaslr", "kgdbwait", "rodata=off"]
    assert words[5:] == ["root=/dev/sda", "init=/bin/sh", "loglevel=8"]
    assert "kgdbwait" not in hardware.command_line(linux, None, waits=False)


@pytest.mark.parametrize(
    ("kind", "boot_disk", "device"),
    [(NETBSD, True, "wd1a"), (NETBSD, False, "wd0a"), (LINUX, False, "/dev/sda")],
)
def test_the_root_device_is_behind_the_disk_that_boots(kind: str, boot_disk: bool, device: str) -> None:
    guest = replace(GUEST, kind=kind)
    assert hardware.root_device(guest, KERNEL, boot_disk) == device
    assert hardware.root_device(replace(guest, root="ld0a"), KERNEL, boot_disk) == "ld0a"
    assert hardware.root_device(guest, replace(KERNEL, disk=None), boot_disk) is None


def test_the_ports_of_a_machine() -> None:
    machine = Machine(name="nb", directory="/m,1/nb", gdb_port=1234)
    argv = hardware.running_argv(machine)
    console, debugger = (word for word in argv if word.startswith("socket,id=com"))
    assert console == "socket,id=com0,path=/m,,1/nb/com0.sock,server=on,wait=off,logfile=/m,,1/nb/serial.log"
    assert debugger == "socket,id=com1,path=/m,,1/nb/com1.sock,server=on,wait=off"
    serials = [argv[at + 1] for at, word in enumerate(argv) if word == "-serial"]
    assert serials == ["chardev:com0", "chardev:com1"]


def test_one_processor_and_the_root_disk_behind_the_one_that_boots() -> None:
    spec = Spec("qemu", "tcg", image="/boot.img", disk="ide", nics=())
    argv = hardware.machine_argv(spec, GUEST, replace(KERNEL, boot=GRUB, cdrom="/p.iso"), ("/d.img", "raw", True))
    assert argv[argv.index("-smp") + 1] == "1"
    drives = [argv[at + 1] for at, word in enumerate(argv) if word == "-drive"]
    root = "file=/d.img,format=raw,id=root0,if=none,snapshot=on"
    assert drives == ["file=/boot.img,format=raw,id=disk0,if=none", root]
    disks = [word for word in argv if word.startswith("ide-hd")]
    assert disks == ["ide-hd,drive=disk0", "ide-hd,drive=root0"]
    assert argv[argv.index("-cdrom") + 1] == "/p.iso"
    assert "-kernel" not in argv


def test_only_a_persistent_overlay_is_written_to(tmp_path: Path) -> None:
    plan = starting.make_plan(GUEST, KERNEL, tmp_path, "run", persist=False)
    assert (plan.disk, plan.kept) == (("/disk.img", "raw", True), False)
    plan = starting.make_plan(GUEST, KERNEL, tmp_path, "run", persist=True)
    assert (plan.disk, plan.kept) == ((str(tmp_path / definition.DISK), "qcow2", False), True)
    # Once the overlay exists, the guest reads it even if the start doesn't keep new writes.
    (tmp_path / definition.DISK).touch()
    plan = starting.make_plan(GUEST, KERNEL, tmp_path, "run", persist=False)
    assert (plan.disk, plan.kept) == ((str(tmp_path / definition.DISK), "qcow2", True), True)


def test_guests_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no disk"):
        starting.make_plan(GUEST, replace(KERNEL, disk=None), tmp_path, "run", persist=True)
    with pytest.raises(RumplabError, match="can't contain a blank"):
        starting.make_plan(GUEST, replace(KERNEL, file="/my kernel"), tmp_path, "run", persist=False)
    starting.make_plan(GUEST, replace(KERNEL, file="/my kernel", boot=GRUB), tmp_path, "run", persist=False)


def test_ssh_is_forwarded_on_the_first_user_network_once() -> None:
    cards = (Nic(net=nics.BRIDGE, mac=""), Nic(), Nic())
    first, second, third = starting.with_ssh(cards, avoid=())
    assert [(item.protocol, item.guest) for item in second.forwards] == [("tcp", 22)]
    assert not first.forwards
    assert not third.forwards
    own = (Nic(forwards=(Forward("tcp", 2222, 22),)),)
    assert starting.with_ssh(own, avoid=()) == own
    assert starting.with_ssh(cards[:1], avoid=()) == cards[:1]


@pytest.mark.parametrize(
    ("head", "directly"),
    [
        (elf(32, rest=header(3)), True),
        (elf(64, 62, header(3)), False),
        (elf(64, 62, header(0x10003)), True),
        (elf(32), False),
        (elf(32, rest=header(3)[:8] + bytes(4)), False),
    ],
)
def test_kernels_that_qemus_loader_accepts(head: bytes, directly: bool) -> None:
    assert multiboot.boots_directly(head + bytes(64)) is directly


def test_the_grub_menu_boots_netbsd_with_the_arguments_of_its_own_loader() -> None:
    menu = grub.netbsd_menu("wd1a", debugger=True)
    (line,) = [line for line in menu.text.splitlines() if "knetbsd" in line]
    assert shlex.split(line) == ["knetbsd", "/netbsd", "--serial=com0,115200", "--root=wd1a", "--kdb"]
    assert "insmod bsd\n" in menu.text
    assert "insmod multiboot\n" not in menu.text
    assert "--root" not in grub.netbsd_menu(None, debugger=False).text


@pytest.mark.parametrize("words", [["--kgdb", "--qemu-stub"], ["--wait"], ["--kgdb", "--wait"]])
def test_contradictions_of_start(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    start.add_arguments(parser)
    with pytest.raises(UsageError):
        start.check_usage(parser.parse_args(["nb", *words]))


@pytest.mark.parametrize(
    ("kind", "qemu_stub", "stub"), [(NETBSD, False, "kgdb"), (NETBSD, True, "qemu"), (LINUX, False, "linux-kgdb")]
)
def test_the_settings_of_the_debugger_session(kind: str, qemu_stub: bool, stub: str) -> None:
    lab = Lab(Path("/prefix"), "lab", "lab", "1", "./provision")
    guest = replace(GUEST, kind=kind, kernel="/netbsd", sources="/here", source_name="/usr/src/sys")
    machine = Machine(name="nb", directory="/m/nb", gdb_port=1234, program="/netbsd.gdb")
    session = debugger.gdb_session(lab, guest, machine, qemu_stub)
    assert (session.stub, session.architecture, session.remote) == (stub, "i386", "127.0.0.1:1234")
    assert (session.socket, session.symbols) == ("/m/nb/com1.sock", "/netbsd.gdb")
    assert session.sources == (("/usr/src/sys", "/here"),)
    # Linux handles a BREAK only on its console, and needs a SysRq key after it.
    assert session.control == (None if kind == LINUX else "/m/nb/qmp.sock")
    assert session.interrupt[-3:] == (("guest", "break", "nb") if kind == LINUX else ())


def test_a_breakpoint_before_the_kernel_is_loaded_is_no_instruction() -> None:
    by_kgdb = KgdbSession(stub="kgdb", architecture="amd64", socket="/com1.sock")
    by_qemu = KgdbSession(stub="qemu", architecture="amd64", remote="127.0.0.1:1234")
    for session, how in ((by_kgdb, "break"), (by_qemu, "hbreak")):
        running = command_line.run_to("main", how)
        assert debug.attach_commands(session, "main")[-len(running) :] == running
        assert running.index(f"{how} main") < running.index("continue")
    assert "target remote 127.0.0.1:1234" in debug.attach_commands(by_qemu, None)
    assert "continue" not in debug.attach_commands(by_qemu, None)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("rumplab.gdb.pipe", {"argparse", "dataclasses", "inspect", "json", "pathlib", "re", "subprocess", "typing"}),
        (
            "rumplab.commands.guest.debug",
            {"rumplab.container.runner", "rumplab.machine.qemu_argv", "subprocess", "tempfile", "termios"},
        ),
        ("rumplab.commands.run", {"rumplab.gdb.rsp"}),
        ("rumplab.ipkdb.session", {"rumplab.ipkdb.pcapng"}),
        (
            "rumplab.commands.guest.start",
            {"rumplab.image.disk", "rumplab.image.recipe", "rumplab.machine.boot_media", "tempfile"},
        ),
    ],
)
def test_the_modules_that_a_verb_imports_are_few(module: str, heavy: set[str]) -> None:
    root = Path(rumplab.__file__).parents[1]
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert not heavy & set(done.stdout.split())
