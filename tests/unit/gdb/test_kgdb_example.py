"""examples/kgdb by packets and by its console: to a debugger it behaves like a NetBSD kernel with kgdb."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kgdb.client import Client
from kgdb.guest import WAITING, Guest
from rsp.server import packet
from support.staging import EXAMPLES, KGDB_EXAMPLE, build, copy_example, needs_compiler, needs_qemu

pytestmark = [pytest.mark.qemu, needs_qemu, needs_compiler]

REGISTERS = {"amd64": (20, 8), "i386": (16, 4)}
PC = {"amd64": 16, "i386": 8}
CS = {"amd64": 18, "i386": 10}
NO_TABLE = 0x70000000
ANSWERS = {
    "?": "S05",
    "qSupported": "",
    "vCont?": "",
    "Z0,100000,1": "",
    "p0": "",
    "X100000,0:": "",
    "H0": "",
    "m0,1": "E05",
    "m100000": "E02",
    "m100000,1x": "E03",
    "m100000,101": "E04",
    f"m{NO_TABLE:x},4": "E0E",
    f"M{NO_TABLE:x},1:00": "E0E",
    "M100000;1:00": "E06",
    "M100000,1;00": "E07",
    "M100000,1f5:00": "E08",
    "M100000,1:0": "E09",
    "M0,1:00": "E0A",
    "cxyz": "E0B",
    "sxyz": "E0B",
}


def symbols(program: Path) -> dict[str, int]:
    lines = subprocess.run(["nm", program], capture_output=True, text=True, timeout=30, check=True).stdout
    return {name: int(address, 16) for address, _, name in (line.split() for line in lines.splitlines())}


@pytest.fixture
def client(guest: Guest) -> Iterator[Client]:
    with Client(guest.line) as connected:
        yield connected


@pytest.fixture
def address(kgdb_kernel: tuple[str, Path]) -> dict[str, int]:
    return symbols(kgdb_kernel[1])


def read_registers(client: Client, architecture: str) -> list[int]:
    count, size = REGISTERS[architecture]
    raw = bytes.fromhex(client.ask("g"))
    assert len(raw) == count * size
    return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]


def test_registers_have_the_layout_and_come_back(
    client: Client, kgdb_kernel: tuple[str, Path], address: dict[str, int]
) -> None:
    architecture = kgdb_kernel[0]
    values = read_registers(client, architecture)
    pc = values[PC[architecture]]
    assert address["kgdb_connect"] < pc < address["kgdb_panic"]
    assert bytes.fromhex(client.ask(f"m{pc - 1:x},1")) == b"\xcc", "just after its own breakpoint instruction"
    assert values[CS[architecture]] == 8
    values[1] ^= 0x55
    size = REGISTERS[architecture][1]
    assert client.ask("G" + b"".join(value.to_bytes(size, "little") for value in values).hex()) == "OK"
    assert read_registers(client, architecture) == values
    assert client.ask("G12") == "OK", "a register that the packet leaves out keeps its value"
    assert client.ask("G123") == "E01"


def test_answers_each_packet_as_documented(client: Client) -> None:
    assert {request: client.ask(request) for request in ANSWERS} == ANSWERS
    assert client.ask("?") == "S05", "and goes on answering"


def test_memory(client: Client, address: dict[str, int]) -> None:
    at = address["ramdisk"]
    wanted = bytes(n * 167 % 256 for n in range(256))
    assert bytes.fromhex(client.ask(f"m{at:x},100")) == wanted
    assert client.ask(f"M{at + 1:x},2:beef") == "OK"
    assert client.ask(f"m{at:x},4") == wanted[:1].hex() + "beef" + wanted[3:4].hex()
    hole = address["memory_hole"]
    assert client.ask(f"m{hole:x},1") == "E05"
    assert client.ask(f"m{hole - 8:x},10") == "E0E", "as in NetBSD, which doesn't look at the last page"


def test_a_bad_checksum_is_refused_and_a_refusal_answered(client: Client) -> None:
    client.send(b"$g#00")
    assert client.byte() == b"-"
    client.send(packet("?"))
    assert client.byte() == b"+"
    assert client.reply() == "S05"
    client.send(b"-")
    assert client.reply() == "S05"
    client.send(b"+")
    assert client.ask("?") == "S05"


def test_garbage_seven_bits_and_long_packets(client: Client) -> None:
    client.send(b"\x00\xfflogin: #12")
    assert client.ask("?") == "S05"
    client.send(b"$\xbf#" + packet("?")[-2:])
    assert client.byte() == b"+"
    assert client.reply() == "S05"
    client.send(b"+$" + b"m" * 512)
    client.send(b"x" * 8)
    assert client.byte() == b"-"
    assert client.ask("?") == "S05"


def test_an_interrupt_byte_does_nothing_and_a_break_does(guest: Guest, client: Client) -> None:
    client.send(packet("c"))
    assert client.byte() == b"+"
    guest.wait_for("connected.\n")
    guest.wait_for("login: ")
    client.send(b"\x03" + packet("?"))
    assert client.silent()
    guest.send_break()
    assert client.reply() == "S05"
    client.send(b"+")
    guest.wait_for(WAITING, 2)
    assert client.ask("D") == "OK"
    # The kernel must have left the debugger: until then it reads a BREAK as a character.
    guest.wait_for("kgdb detached\nconnected.\n")
    guest.send_break()
    guest.wait_for(WAITING, 3)
    assert client.silent(), "a debugger that has detached gets no packet"
    assert client.ask("?") == "S05"
    assert client.ask("k") == "OK", "kill works as detach"
    guest.type("root", "uname")
    guest.wait_for("\nkgdbdemo/", 2)


def test_without_the_flag_only_a_break_enters(kgdb_guests: Callable[..., Guest]) -> None:
    guest = kgdb_guests("no flag here")
    guest.wait_for("login: ")
    assert WAITING not in guest.said()
    with Client(guest.line) as client:
        client.send(packet("?"))
        assert client.silent()
        guest.send_break()
        guest.wait_for(WAITING)
        assert client.ask("?") == "S05"


def test_a_step_is_one_instruction_and_continue_takes_an_address(
    client: Client, kgdb_kernel: tuple[str, Path], address: dict[str, int]
) -> None:
    architecture = kgdb_kernel[0]
    before = read_registers(client, architecture)[PC[architecture]]
    client.send(packet("s"))
    assert client.byte() == b"+"
    assert client.reply() == "S05"
    client.send(b"+")
    after = read_registers(client, architecture)[PC[architecture]]
    assert 0 < after - before < 16
    client.send(packet(f"c{NO_TABLE:x}"))
    assert client.byte() == b"+"
    assert client.reply() == "S0b", "SIGSEGV"
    client.send(b"+")
    assert read_registers(client, architecture)[PC[architecture]] == NO_TABLE


def test_a_panic_waits_for_a_debugger_where_one_has_been(guest: Guest, client: Client, address: dict[str, int]) -> None:
    # ud2, an undefined instruction, at a place that the workload executes.
    assert client.ask(f"M{address['counter_step']:x},2:0f0b") == "OK"
    assert client.ask("D") == "OK"
    guest.wait_for("panic: trap at 0x")
    guest.wait_for("entering kgdb\n")
    guest.wait_for(WAITING, 2)
    assert client.ask("?") == "S05"


def test_the_console(kgdb_guests: Callable[..., Guest]) -> None:
    bridged = ("-device", "pci-bridge,chassis_nr=2,id=pci.1", "-device", "e1000,bus=pci.1,addr=1")
    guest = kgdb_guests("", bridged)
    guest.wait_for("login: ")
    guest.type("guest")
    guest.wait_for("Login incorrect")
    guest.type("root", "pcictl pci1 list -N", "pcictl pci0 list -n; echo a  b", "pcictl pci9 list", "nope")
    guest.type("ps", "dmesg", "exit")
    guest.wait_for("login: ", 4)
    said = guest.said()
    assert "\n001:01:0: Intel i82540EM 1000baseT Ethernet [wm0]\n" in said
    assert "\n000:00:0: 0x12378086 (0x06000002)\n" in said
    assert "\na b\n" in said
    assert "pcictl: pci9: Device not configured\n" in said
    assert "nope: not found\n" in said
    assert "\n1 0 " in said
    assert said.count("wm0 at pci1 dev 1 function 0") == 2, "once at the start, once in the message buffer"


@pytest.mark.parametrize(
    ("machine", "way"), [("pc", "shutdown -p now"), ("pc", "button"), ("q35", "poweroff"), ("q35", "button")]
)
def test_it_turns_the_machine_off(kgdb_guests: Callable[..., Guest], machine: str, way: str) -> None:
    guest = kgdb_guests("", ("-machine", f"{machine},accel=tcg"))
    guest.wait_for("login: ")
    if way == "button":
        guest.qmp("system_powerdown")
    else:
        guest.type("root", way)
    assert guest.ended() == 0
    assert "system going down: power off\n" in guest.said()


def test_it_restarts_and_halts(kgdb_guests: Callable[..., Guest]) -> None:
    guest = kgdb_guests("")
    guest.wait_for("login: ")
    guest.type("root", "reboot")
    guest.wait_for("login: ", 2)
    guest.type("root", "halt")
    guest.wait_for("Please press any key to reboot.")
    guest.type("")
    guest.wait_for("login: ", 3)


def test_the_build_depends_on_no_path(tmp_path: Path, kgdb_kernel: tuple[str, Path]) -> None:
    architecture, program = kgdb_kernel
    copy_example(tmp_path / "b ü $x")
    again = build(tmp_path / "b ü $x" / KGDB_EXAMPLE.name, tmp_path / "again.bin", f"ARCH={architecture}")
    assert again.read_bytes() == program.read_bytes()
    assert str(EXAMPLES).encode() not in program.read_bytes()
    magic = struct.pack("<I", 0x1BADB002)
    assert magic in program.read_bytes()[:8192], "where boot loaders look"
