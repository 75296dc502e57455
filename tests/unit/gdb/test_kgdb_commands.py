"""kgdb without GDB: the commands for GDB, the target descriptions, and the relay."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rumplab.gdb import command_line, kgdb_commands, pipe
from rumplab.gdb.kgdb_commands import KGDB, LINUX_KGDB, QEMU, KgdbSession, commands

SESSION = KgdbSession(KGDB, "amd64", socket="/run/a b/com1.sock", control="/run/qmp.sock", symbols='/k/"net bsd"')
I386 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags", "cs", "ss", "ds", "es", "fs", "gs")
# The registers in a 'g' reply, by architecture, with their sizes in bits.
LAYOUTS = {
    "amd64": [("rax", 64), ("rbx", 64), ("rcx", 64), ("rdx", 64), ("rsi", 64), ("rdi", 64), ("rbp", 64), ("rsp", 64)]
    + [(f"r{number}", 64) for number in range(8, 16)]
    + [("rip", 64), ("eflags", 64), ("cs", 64), ("ss", 64)],
    "i386": [(name, 32) for name in I386],
}


@pytest.mark.parametrize("architecture", LAYOUTS)
def test_a_description_begins_with_the_registers_of_the_reply(architecture: str) -> None:
    registers = list(ElementTree.parse(kgdb_commands.description(architecture)).iter("reg"))
    layout = LAYOUTS[architecture]
    assert [(one.get("name"), int(one.get("bitsize", "0"))) for one in registers[: len(layout)]] == layout
    rest = {one.get("name") for one in registers[len(layout) :]}
    # GDB rejects a target description for x86 without the registers of the FPU.
    assert {"st0", "st7", "fctrl", "fop"} <= rest
    assert sum(size for _, size in layout) // 8 == {"amd64": 160, "i386": 64}[architecture]


def test_everything_is_set_before_gdb_attaches() -> None:
    made = commands(SESSION)
    attaching = command_line.attached(f"target remote {kgdb_commands.target(SESSION)}")
    assert made[-len(attaching) :] == attaching
    assert attaching[0].startswith("target remote | ")
    assert made[0] == "set architecture i386:x86-64"
    assert f"set tdesc filename {kgdb_commands.DATA}/kgdb-amd64.xml" in made
    assert "set remote memory-read-packet-size 400" in made
    assert "set remote binary-download-packet off" in made
    assert 'file "/k/\\"net bsd\\""' in made
    assert f"source {kgdb_commands.HELPERS}" in made
    assert "set architecture i386" in commands(replace(SESSION, architecture="i386"))


def test_the_pipe_is_one_shell_command_that_names_the_sockets() -> None:
    words = shlex.split(kgdb_commands.target(SESSION).removeprefix("| "))
    assert words[-4:] == ["/run/a b/com1.sock", "--break", "/run/qmp.sock", "com1"]
    told = replace(SESSION, interrupt=("stop", "it now"))
    assert shlex.split(kgdb_commands.target(told))[-3:] == ["--", "stop", "it now"]


def test_other_stubs_get_no_description() -> None:
    qemu = commands(replace(SESSION, stub=QEMU, remote="127.0.0.1:1234", architecture="i386"))
    assert "target remote 127.0.0.1:1234" in qemu
    assert f"source {kgdb_commands.HELPERS}" in qemu
    linux = commands(replace(SESSION, stub=LINUX_KGDB, linux=True))
    assert not [one for one in (*qemu, *linux) if "tdesc" in one or "-packet" in one]
    assert f"source {kgdb_commands.HELPERS}" not in linux
    assert f"source {kgdb_commands.LINUX_HELPERS}" in linux
    # By QEMU's stub, a Linux has its own commands too.
    assert f"source {kgdb_commands.LINUX_HELPERS}" in commands(replace(SESSION, stub=QEMU, remote="x", linux=True))


def test_the_longest_source_directory_comes_first() -> None:
    made = commands(replace(SESSION, sources=(("/usr/src", "/s"), ("/usr/src/sys", "/t t"))))
    assert [one for one in made if "substitute" in one] == [
        'set substitute-path "/usr/src/sys" "/t t"',
        'set substitute-path "/usr/src" "/s"',
    ]


@pytest.mark.parametrize("wrong", [replace(SESSION, stub="vmware"), replace(SESSION, architecture="vax")])
def test_unknown_names_are_refused(wrong: KgdbSession) -> None:
    with pytest.raises(ValueError, match="there are"):
        commands(wrong)


def test_interrupts_are_found_outside_packets_only() -> None:
    stream, other = pipe.Stream(), pipe.Stream()
    assert stream.feed(b"+\x03$M1,1:\x03#\x03", other) == (b"+$M1,1:\x03#\x03", 1)
    assert stream.feed(b"\x03\x03\x03-", other) == (b"\x03-", 2)
    assert stream.unacknowledged


def test_an_answer_is_due_until_it_is_acknowledged() -> None:
    gdb, guest = pipe.Stream(), pipe.Stream()
    gdb.feed(b"$k#6", guest)
    owed = [gdb.unacknowledged]
    gdb.feed(b"b", guest)
    owed.append(gdb.unacknowledged)
    guest.feed(b"+$OK#9a", gdb)
    owed += [gdb.unacknowledged, guest.unacknowledged]
    gdb.feed(b"+", guest)
    assert [*owed, guest.unacknowledged] == [False, True, False, True, False]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """The guest's end of the line: the path of a listening socket, and the socket."""
    directory = Path(os.path.relpath(tmp_path))
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(20)
        server.bind(str(directory / "com1"))
        server.listen()
        yield directory / "com1", server


def start(path: Path, *more: str) -> subprocess.Popen[bytes]:
    argv = [*pipe.argv(str(path)), *more]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def take(guest: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = guest.recv(count - len(data))
        assert piece, data
        data += piece
    return data


def test_the_relay_carries_both_ways_and_acknowledges_for_a_gdb_that_has_ended(
    line: tuple[Path, socket.socket],
) -> None:
    process = start(line[0])
    guest, _ = line[1].accept()
    with guest:
        guest.settimeout(20)
        assert process.stdin is not None and process.stdout is not None
        guest.sendall(b"\x00\xff$S05#b8")
        assert process.stdout.read(9) == b"\x00\xff$S05#b8"
        process.stdin.write(b"+$k#6b")
        process.stdin.close()
        assert take(guest, 6) == b"+$k#6b"
        guest.sendall(b"+$OK#9a")
        assert take(guest, 1) == b"+"
        assert process.wait(20) == 0
    process.stdout.close()


def test_the_relay_reports_that_the_guest_has_closed_its_line(line: tuple[Path, socket.socket]) -> None:
    process = start(line[0])
    guest, _ = line[1].accept()
    guest.sendall(b"$S0")
    guest.close()
    # The relay ends although GDB's end is still open.
    assert process.wait(20) == 1
    said = process.communicate(timeout=20)
    assert said == (b"$S0", b"rumplab: the guest has closed its line\n")


def test_the_relay_reports_that_there_is_no_guest(tmp_path: Path) -> None:
    process = start(tmp_path / "nothing")
    _, said = process.communicate(timeout=20)
    assert b"nothing: No such file or directory; is the guest running?" in said
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ([], "Ctrl-C can't stop this guest"),
        (["--break", "nowhere", "com1"], "cannot send a BREAK to the guest: nowhere: "),
        (["--", "sh", "-c", "echo too bad; exit 3"], "cannot stop the guest: too bad"),
        (["--", "no-such-command"], "cannot stop the guest: [Errno 2]"),
    ],
)
def test_an_interrupt_that_fails_is_reported_and_the_line_stays_open(
    line: tuple[Path, socket.socket], way: list[str], said: str
) -> None:
    process = start(line[0], *way)
    guest, _ = line[1].accept()
    with guest:
        guest.settimeout(20)
        assert process.stdin is not None
        process.stdin.write(b"\x03$g#67")
        process.stdin.flush()
        assert take(guest, 5) == b"$g#67"
        guest.sendall(b"+")
        _, error = process.communicate(timeout=20)
    assert said in error.decode()


def test_ctrl_c_works_while_the_guest_reads_nothing(line: tuple[Path, socket.socket], tmp_path: Path) -> None:
    mark = tmp_path / "stopped"
    process = start(line[0], "--", "touch", str(mark))
    guest, _ = line[1].accept()
    assert process.stdin is not None
    # More bytes than the buffer of a socket takes.
    flood = threading.Thread(target=process.stdin.write, args=(b"x" * (1 << 21) + b"\x03",))
    flood.start()
    flood.join(20)
    process.stdin.flush()
    for _ in range(200):
        if mark.exists():
            break
        threading.Event().wait(0.1)
    guest.close()
    process.communicate(timeout=20)
    assert mark.exists()
