"""The lab's GDB against a real QEMU, and against a server whose 'g' reply changes size."""

from __future__ import annotations

import json
import os
import shlex
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from rsp import i386

STOCK = "/usr/bin/gdb"
LAB = "/opt/rumplab/gdb/bin/x86_64-elf-gdb"
PORT = 21234
TOO_LONG = "Remote 'g' packet reply is too long"
# The size of the 'g' reply of QEMU's x86_64 stub; for an i386, GDB expects 308 bytes.
LONG = 608
SHT_SYMTAB, SHT_DYNSYM = 2, 11
ATTACH = ["set remote target-features-packet off", "set architecture i386", f"target remote 127.0.0.1:{PORT}"]


@pytest.fixture
def qemu(host: Any) -> Iterator[None]:
    """Start a machine that waits at its reset vector and ends after two minutes."""
    arguments = f"-accel tcg -S -display none -serial none -monitor none -gdb tcp:127.0.0.1:{PORT}"
    started = host.run(f"timeout 120 qemu-system-x86_64 {arguments} -daemonize -pidfile /tmp/machine.pid")
    assert started.rc == 0, started.stderr
    yield
    host.run("kill $(cat /tmp/machine.pid)")


def debug(host: Any, gdb: str, commands: list[str]) -> str:
    """Run GDB's commands in batch mode and return its output."""
    options = " ".join(f"-ex {shlex.quote(command)}" for command in commands)
    return str(host.run(f"timeout 60 {gdb} -nx -batch {options} 2>&1 < /dev/null").stdout)


def play(host: Any, gdb: str, stops: list[dict[str, Any]], commands: list[str]) -> dict[str, Any]:
    """Run GDB's commands against the server; return GDB's status, its output, and the packets it sent."""
    session = shlex.quote(json.dumps({"stops": stops, "commands": commands}))
    ran = host.run(f"cd /opt && printf %s {session} | timeout 120 python3 -m rsp.drive {gdb} 60")
    assert ran.rc == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    assert answer["status"] is not None, answer["output"]
    return answer


def stop(size: int, number: int, **more: str) -> dict[str, Any]:
    """Return a stop whose register values contain its number, so that all differ from those of the former stop."""
    values = {"eax": 0x11110000 + number, "eip": 0x1000 * number, "mxcsr": 0x1F80 + number}
    singly = {str(i386.NUMBERS[name]): value for name, value in more.items()}
    return {"g": i386.reply(size, values), "p": singly}


def test_the_distributions_gdb_fails_on_qemu(host: Any, qemu: None) -> None:
    said = debug(host, STOCK, [*ATTACH, "info registers"])
    assert TOO_LONG in said
    assert "eflags" not in said


def test_the_labs_gdb_attaches_to_qemu_and_reads_registers(host: Any, qemu: None) -> None:
    said = debug(host, LAB, [*ATTACH, "info registers"])
    assert TOO_LONG not in said
    for register in ("eax", "esp", "eip", "eflags", "cs"):
        assert f"\n{register} " in said


def test_the_labs_gdb_reads_the_right_rip_when_told_of_long_mode(host: Any, qemu: None) -> None:
    told = ["info registers eip", "set architecture i386:x86-64", "p/x $rip", "p/x $cs"]
    said = debug(host, LAB, [*ATTACH, *told])
    assert "$1 = 0xfff0\n$2 = 0xf000" in said


def test_the_distributions_gdb_fails_on_a_reply_that_grew(host: Any) -> None:
    got = play(host, STOCK, [stop(i386.FULL, 1), stop(LONG, 2)], ["continue", "p/x $mxcsr"])
    assert TOO_LONG in got["output"]
    assert hex(0x1F82) not in got["output"]


def test_every_change_of_size_is_followed(host: Any) -> None:
    sizes = [LONG, 64, LONG, i386.FULL, 2000, 304, 2000]
    stops = [stop(size, number) for number, size in enumerate(sizes, 1)]
    commands = ["p/x $eip", "p/x $eax", "p/x $mxcsr", "continue"] * len(sizes)
    got = play(host, LAB, stops, commands[:-1])
    numbers = iter(range(1, 1000))
    for number, size in enumerate(sizes, 1):
        mxcsr = hex(0x1F80 + number) if size >= i386.FULL else "<unavailable>"
        for value in (hex(0x1000 * number), hex(0x11110000 + number), mxcsr):
            assert f"${next(numbers)} = {value}\n" in got["output"]
    assert got["packets"].count("g") == len(sizes)


def test_a_register_that_straddles_the_end_is_not_taken_from_the_reply(host: Any) -> None:
    straddling = i386.OFFSETS["st0"] + 2
    got = play(
        host,
        LAB,
        [stop(LONG, 1), stop(straddling, 2, st0=i386.x87(3 << 62, 0x3FFF)), stop(LONG, 3)],
        ["p $st0", "continue", "p/x $eip", "p $st0", "continue", "p/x $mxcsr", "p $st0"],
    )
    assert "$1 = 0\n" in got["output"]
    assert "$2 = 0x2000\n$3 = 1.5\n" in got["output"]
    assert "$4 = 0x1f83\n$5 = 0\n" in got["output"]
    assert got["packets"].count("p10") == 1


def test_a_straddling_register_that_cannot_be_asked_for_is_unavailable(host: Any) -> None:
    stops = [stop(LONG, 1), stop(i386.FULL - 1, 2)]
    got = play(host, LAB, stops, ["continue", "p/x $eip", "p/x $mxcsr"])
    assert "$1 = 0x2000\n$2 = <unavailable>" in got["output"]
    assert "internal-error" not in got["output"]


def test_the_tree(host: Any) -> None:
    tree = host.file(f"{os.path.dirname(os.path.dirname(LAB))}")
    assert tree.is_symlink
    descriptor = json.loads(host.file("/opt/rumplab/etc/components.d/gdb.json").content_string)
    assert descriptor["state"] == "installed"
    assert descriptor["wanted"] == "7.11"
    assert descriptor["version"] in host.run(f"{LAB} -nx --version").stdout.splitlines()[0]
    assert host.file(descriptor["paths"]["gdbinit"]).contains("set pagination off")
    assert host.file(descriptor["paths"]["gdb"]).exists


def test_the_program_is_stripped(host: Any) -> None:
    program = host.file(LAB).content
    assert program[:5] == b"\x7fELF\x02"
    # Elf64_Ehdr: e_shoff, then e_shentsize and e_shnum; Elf64_Shdr: sh_type after sh_name.
    (start,) = struct.unpack_from("<Q", program, 0x28)
    size, number = struct.unpack_from("<HH", program, 0x3A)
    kinds = [struct.unpack_from("<I", program, start + index * size + 4)[0] for index in range(number)]
    assert SHT_DYNSYM in kinds
    assert SHT_SYMTAB not in kinds


@pytest.mark.parametrize(
    ("architecture", "abi"),
    [("i386:x86-64", "NetBSD"), ("i386", "NetBSD"), ("i386:x86-64", "none"), ("i386", "none")],
)
def test_the_targets(host: Any, architecture: str, abi: str) -> None:
    commands = [f"set architecture {architecture}", f"set osabi {abi}", "show architecture", "show osabi"]
    said = debug(host, LAB, commands)
    assert f'"{architecture}"' in said
    assert f'The current OS ABI is "{abi}"' in said


def test_its_own_gdbinit_is_read_from_wherever_the_tree_stands(host: Any) -> None:
    host.run("cp -RL /opt/rumplab/gdb /tmp/moved")
    moved = "/tmp/moved/bin/x86_64-elf-gdb"
    said = host.run(f"HOME=/nonexistent timeout 60 {moved} -batch -ex 'show pagination' -ex arch64")
    host.run("rm -rf /tmp/moved")
    assert "pagination is off" in said.stdout
    assert "i386:x86-64" in said.stdout


def test_target_descriptions_are_understood(host: Any, qemu: None) -> None:
    """GDB has Expat: it recognizes an x86-64 processor from QEMU's target description alone."""
    said = debug(host, LAB, [f"target remote 127.0.0.1:{PORT}", "p/x $rip", "show architecture"])
    assert "$1 = 0xfff0" in said
    assert "i386:x86-64" in said
