"""QEMU's command line, without running it."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace

import pytest

from rumplab.cli import arguments
from rumplab.commands import run
from rumplab.machine import qemu_argv

IMAGE = qemu_argv.Spec(qemu="/q", gdb_port=1234, accel="tcg", image="/a/x.img")
PROGRAM = qemu_argv.Spec(qemu="/q", gdb_port=1234, accel="tcg", program="/a/x.bin")


def pairs(argv: list[str], option: str) -> list[str]:
    """Return the value of each `option`."""
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


def test_the_default_machine() -> None:
    argv = qemu_argv.machine_argv(IMAGE)
    assert pairs(argv, "-device") == [
        "pci-bridge,chassis_nr=2,id=pci.1,bus=pci.0,addr=3",
        "e1000,netdev=net0,mac=54:54:00:55:55:55,bus=pci.1,addr=1",
        "virtio-blk-pci,drive=disk0",
    ]
    assert pairs(argv, "-netdev") == ["user,id=net0,net=192.168.76.0/24,dhcpstart=192.168.76.9,restrict=on"]
    assert pairs(argv, "-gdb") == ["tcp:127.0.0.1:1234"]
    assert pairs(argv, "-drive") == ["file=/a/x.img,format=raw,id=disk0,if=none"]
    assert "-S" not in argv
    assert "-s" not in argv


def test_wait_and_exit_device() -> None:
    argv = qemu_argv.machine_argv(replace(IMAGE, wait=True, exit_device=True))
    assert "-S" in argv
    assert "isa-debug-exit,iobase=0xf4,iosize=0x4" in argv


def test_ide_snapshot_and_format() -> None:
    argv = qemu_argv.machine_argv(replace(IMAGE, disk="ide", snapshot=True, image_format="qcow2"))
    assert pairs(argv, "-drive") == ["file=/a/x.img,format=qcow2,id=disk0,snapshot=on,if=none"]
    assert pairs(argv, "-device")[-1] == "ide-hd,drive=disk0"


def test_commas_are_doubled_where_qemu_splits_and_only_there() -> None:
    assert "file=/a,,b/c.img," in qemu_argv.machine_argv(replace(IMAGE, image="/a,b/c.img"))[-3]
    argv = qemu_argv.machine_argv(replace(PROGRAM, program="/a,b/c", arguments="x,y"))
    assert argv[-4:] == ["-kernel", "/a,b/c", "-append", "x,y"]
    assert qemu_argv.detached_argv("/a,b/log")[1] == "file,id=console,path=/a,,b/log"
    assert "path=/a,,b/s," in qemu_argv.control_argv("/a,b/s")[1]


def test_a_printed_command_is_one_shell_line() -> None:
    line = run.command(replace(IMAGE, image="/a b/é's.img", extra=("-smp", "2")), detach=False)
    assert "\n" not in line
    words = shlex.split(line)
    assert "file=/a b/é's.img,format=raw,id=disk0,if=none" in words
    assert words[-2:] == ["-smp", "2"]
    assert "-daemonize" in run.command(IMAGE, detach=True)


@pytest.mark.parametrize("text", ["0", "-1", "12K", "1.5G", "", "x"])
def test_bad_memory(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="memory size"):
        arguments.memory(text)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "x", "\u0661"])
def test_bad_port(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a port"):
        run.port(text)
