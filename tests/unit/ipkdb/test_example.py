"""examples/ipkdb in QEMU on an emulated NE2000: by datagrams, by Ethernet frames, and with GDB and the translator."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from ipkdb import ethernet
from ipkdb.client import Client, by_udp
from ipkdb.ethernet import GUEST, GUEST_MAC, HOST, HOST_MAC, MORE, Relay, Segment
from ipkdb.kernel import KEY, seal
from kgdb.guest import Guest
from support.labfixture import LabPrefix, host_tool
from support.staging import EXAMPLES, IPKDB_EXAMPLE, build, copy_example, needs_compiler, needs_qemu

pytestmark = [pytest.mark.qemu, needs_qemu, needs_compiler]

WAITING = "waiting for remote debugger"
SECONDS = 120
NO_TABLE = 0x70000000
FILLING = bytes(n * 167 % 256 for n in range(256))
# (page, number) of the card's registers that the kernel's own driver sets.
RING_START, RING_END, BOUNDARY, CURRENT = (2, 1), (2, 2), (0, 3), (1, 7)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(IPKDB_EXAMPLE, tmp_path_factory.mktemp("ipkdb") / "ipkdb.bin")


@pytest.fixture(scope="module")
def address(program: Path) -> dict[str, int]:
    lines = subprocess.run(["nm", program], capture_output=True, text=True, timeout=30, check=True).stdout
    return {name: int(value, 16) for value, _, name in (line.split() for line in lines.splitlines())}


@dataclass(frozen=True)
class Debuggee:
    """A kernel in QEMU on a user network; its IPKDB is at `port` of 127.0.0.1."""

    guest: Guest
    port: int
    capture: Path

    def client(self) -> Client:
        return Client(by_udp(self.port), KEY)

    def press(self, key: bytes) -> None:
        """Type a single key at the console, without a newline."""
        with socket.socket(socket.AF_UNIX) as keyboard:
            keyboard.connect(str(self.guest.terminal))
            keyboard.sendall(key)
            # When its client closes the socket, QEMU drops the bytes that it hasn't passed on.
            time.sleep(0.5)


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    """A function that starts a guest with a card on the netdev `n`. The guests end with the test."""
    with contextlib.ExitStack() as stack:

        def started(netdev: str, flags: str = "-d", extra: Sequence[str] = (), key: bytes | None = KEY) -> Guest:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ri")))
            argv = ["-netdev", netdev, "-device", f"ne2k_pci,netdev=n,addr=3,mac={GUEST_MAC.hex(':')}", *extra]
            if key is not None:
                (directory / "key").write_bytes(key + b"\n")
                argv += ["-initrd", str(directory / "key")]
            return stack.enter_context(Guest(program, directory, flags, extra=argv))

        yield started


@pytest.fixture
def debuggee(start: Callable[..., Guest], tmp_path: Path) -> Debuggee:
    """A kernel that waits for its debugger, at an address from QEMU's DHCP server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder:
        finder.bind(("127.0.0.1", 0))
        port = finder.getsockname()[1]
    capture = tmp_path / "wire.pcap"
    dump = ("-object", f"filter-dump,id=f,netdev=n,file={capture}")
    guest = start(f"user,id=n,net=192.168.76.0/24,hostfwd=udp:127.0.0.1:{port}-:1138", extra=dump)
    guest.wait_for("My IP address is 192.168.76.15\n")
    return Debuggee(guest, port, capture)


def gdb(lab: LabPrefix, program: Path, port: int, key_file: Path, *commands: str) -> str:
    """Return GDB's output; GDB runs the translator, which connects to a port of 127.0.0.1."""
    translator = " ".join(lab.argv("ipkdb", "--target", f"127.0.0.1:{port}", "--key-file", key_file, "--stdio"))
    words = (f"file {program}", f"directory {IPKDB_EXAMPLE}", f"target remote | {translator}", *commands)
    return lab.gdb(*words, timeout=SECONDS)


def test_check_port_finds_no_fault(debuggee: Debuggee, empty_lab: LabPrefix, key_file: Path) -> None:
    words = ("check-port", "--target", f"127.0.0.1:{debuggee.port}", "--key-file", key_file, "--oversized", "--json")
    done = empty_lab.tool("ipkdb", *words, timeout=SECONDS)
    rows = json.loads(done.stdout)
    assert len(rows) > 20 and {row["result"] for row in rows} == {"ok"}, rows
    assert "debugged by " in debuggee.guest.said()
    debuggee.guest.wait_for("running\n")


def test_memory_and_faults(debuggee: Debuggee, address: dict[str, int]) -> None:
    client = debuggee.client()
    assert client.open() == b"s"
    before = client.registers()
    assert (before["cs"], before["ss"]) == (8, 0x10)
    assert address["ipkdb_trap"] < before["eip"] <= address["ipkdb_trap"] + 64
    assert client.read(address["ramdisk"], 388) == (FILLING * 2)[:388]
    hole = address["memory_hole"]
    assert client.read(hole - 2, 8)[2:] == b"\xff" * 6, "an address that isn't mapped"
    assert client.read(NO_TABLE, 4) == client.read(0, 4) == b"\xff" * 4
    for place in (hole, NO_TABLE, 0):
        client.write(place, b"\1\2\3\4")
    client.write(address["ramdisk"], b"\1\2\3\4")
    assert client.read(address["ramdisk"], 5) == b"\1\2\3\4" + FILLING[4:5]
    assert client.registers() == before, "the kernel's own fault handler doesn't run"


def register(guest: Guest, base: int, place: tuple[int, int]) -> int:
    """Read a register of the card; the processor must be halted."""
    page, number = place
    guest.qmp("human-monitor-command", **{"command-line": f"o /b {base:#x} {0x22 | page << 6:#x}"})
    said = guest.qmp("human-monitor-command", **{"command-line": f"i /b {base + number:#x}"})
    guest.qmp("human-monitor-command", **{"command-line": f"o /b {base:#x} 0x22"})
    return int(re.findall(r"= (0x[0-9a-f]+)", said)[0], 16)


def test_leaving_the_debugger_restores_the_kernels_state_of_the_card(
    debuggee: Debuggee, address: dict[str, int]
) -> None:
    client = debuggee.client()
    client.open()
    base = int.from_bytes(client.read(address["ne"], 2), "little")

    def state() -> list[int]:
        debuggee.guest.qmp("stop")
        found = [register(debuggee.guest, base, place) for place in (RING_START, RING_END)]
        found += [register(debuggee.guest, base, (1, number)) for number in (*range(1, 7), *range(8, 16))]
        debuggee.guest.qmp("cont")
        return found

    assert state() == [0x66, 0x80, *GUEST_MAC, *bytes(8)], "the debugger's ring"
    assert client.ask(b"X") == b"ok"
    debuggee.guest.wait_for("running\n")
    assert state() == [0x46, 0x60, *GUEST_MAC, *b"\xff" * 8], "the kernel's ring, as the kernel had set it up"
    frames = 5
    for _ in range(frames):
        client.exchange(b"to a kernel that runs")
    debuggee.press(b"p")
    debuggee.guest.wait_for("panic: somebody typed p")
    again = debuggee.client()
    assert again.open() == b"s"
    assert int.from_bytes(again.read(address["ne_frames"], 4), "little") >= frames


def test_the_card_is_restored_between_any_two_instructions(debuggee: Debuggee, address: dict[str, int]) -> None:
    """Step through the whole driver of the kernel."""
    client = debuggee.client()
    client.open()
    code = client.read(address["card_poll"], 1)
    client.write(address["card_poll"], b"\xcc")
    assert client.ask(b"C") == b"s"
    client.write(address["card_poll"], code)
    area = bytearray(client.ask(b"R")[1:])
    area[32:36] = address["card_poll"].to_bytes(4, "little")
    assert client.ask(b"W" + bytes(area)) == b"ok"
    home = int.from_bytes(client.read(int.from_bytes(area[16:20], "little"), 4), "little")
    for _ in range(2000):
        assert client.ask(b"S") == b"s"
        if client.registers()["eip"] == home:
            break
    else:
        raise AssertionError("the driver never returned")
    assert client.ask(b"X") == b"ok"
    debuggee.guest.wait_for("running\n")
    assert "no sense" not in debuggee.guest.said()


def test_gdb_breaks_steps_watches_and_changes(
    debuggee: Debuggee, program: Path, empty_lab: LabPrefix, key_file: Path
) -> None:
    said = gdb(
        *(empty_lab, program, debuggee.port, key_file),
        *("break counter_step if amount == 3", "continue", "bt", "stepi", "info registers", "delete", "next"),
        *("set can-use-hw-watchpoints 0", "watch counter", "continue", "delete", "print counter > 0"),
        *("set var counter = 4711", "print counter", "set var $esi = 99", "print $esi", "x/4xb &memory_hole"),
        *("break *&memory_hole", "continue", "delete", "print $st0", "x/2xb counter_step", "detach"),
    )
    assert re.search(r"^Breakpoint 1, counter_step \(amount=.*3\) at .*main\.c:", said, re.MULTILINE), said
    assert re.search(r"^#2 .* main \(.*\) at .*main\.c:", said, re.MULTILINE), said
    assert re.search(r"^eip +0x\w+ +0x\w+ <counter_step\+\d+>", said, re.MULTILINE), said
    assert re.search(r"^New value = \d+$", said, re.MULTILINE), said
    assert "$1 = 1" in said and "$2 = 4711" in said and "$3 = 99" in said and "$4 = <unavailable>" in said, said
    assert "<memory_hole>:\t0xff\t0xff\t0xff\t0xff" in said
    assert "Cannot insert breakpoint" in said
    assert "0xcc" not in said and "Traceback" not in said
    debuggee.guest.wait_for("running\n")


def test_after_a_detach_a_panic_enters_the_debugger(
    debuggee: Debuggee, program: Path, empty_lab: LabPrefix, key_file: Path
) -> None:
    session = (empty_lab, program, debuggee.port, key_file)
    assert "detached" in gdb(*session, "set var *(short *)&counter_step = 0x0b0f", "detach")
    debuggee.guest.wait_for("panic: trap at 0x")
    said = gdb(*session, "bt", "detach")
    assert re.search(r"^#1 .* ipkdb_panic \(\)", said, re.MULTILINE), said
    assert re.search(r" counter_step \(", said), said
    debuggee.guest.wait_for("rebooting\n")
    # The kernel waits again after its restart, since its command line has -d.
    debuggee.guest.wait_for(WAITING, 2)
    assert "$1 = 0" in gdb(*session, "print counter", "detach")


def test_a_keypress_ends_the_wait_after_a_panic(debuggee: Debuggee) -> None:
    client = debuggee.client()
    client.open()
    client.ask(b"X")
    debuggee.guest.wait_for("running\n")
    debuggee.press(b"p")
    debuggee.guest.wait_for("panic: somebody typed p")
    debuggee.press(b"x")
    debuggee.guest.wait_for("rebooting\n")
    debuggee.guest.wait_for(WAITING, 2)


def test_tshark_finds_nothing_malformed(
    debuggee: Debuggee, program: Path, empty_lab: LabPrefix, key_file: Path
) -> None:
    tshark = host_tool("tshark")
    gdb(empty_lab, program, debuggee.port, key_file, "stepi 20", "x/300xw &ramdisk", "detach")
    checks = ("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
    bad = "_ws.malformed or ip.checksum.status==0 or udp.checksum.status==0 or _ws.expert.severity>=8388608"

    def rows(*options: str) -> list[str]:
        argv = [tshark, "-r", str(debuggee.capture), *checks, *options]
        return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=True).stdout.splitlines()

    assert len(rows("-Y", "udp.port==1138")) > 100
    assert rows("-Y", "bootp or dhcp") and not rows("-Y", bad)


# By Ethernet frames.


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment() as wire:
        yield wire


ADDRESSED = f"-d ipaddr={'.'.join(str(byte) for byte in GUEST)}"


@pytest.fixture
def wired(segment: Segment, start: Callable[..., Guest]) -> Guest:
    """A kernel with a fixed address, at the other end of the segment."""
    guest = start(segment.netdev(), ADDRESSED)
    guest.wait_for(WAITING)
    return guest


def test_it_answers_arp_for_its_own_address_only(wired: Guest, segment: Segment) -> None:
    segment.send(ethernet.arp(bytes((192, 0, 2, 3))))
    assert segment.receive() is None
    segment.send(ethernet.arp(GUEST))
    frame = segment.receive()
    assert frame is not None and len(frame) == 60
    assert frame[:12] == HOST_MAC + GUEST_MAC
    assert frame[20:42] == b"\0\2" + GUEST_MAC + GUEST + HOST_MAC + HOST


def test_it_asks_for_its_address_by_bootp(segment: Segment, start: Callable[..., Guest]) -> None:
    guest = start(segment.netdev())
    asked = segment.udp(30)
    assert asked is not None
    assert (asked.frame[:6], asked.frame[26:34]) == (ethernet.ALL, bytes(4) + b"\xff" * 4)
    assert (asked.source, asked.target, len(asked.data)) == (68, 67, 300)
    assert asked.data[:8] == b"\1\1\6\0\x12\x34\x56\x78" and asked.data[28:34] == GUEST_MAC
    answer = bytearray(asked.data)
    answer[0] = 2

    def answered(to: bytes, number: int = 4) -> None:
        wrong = bytes((*answer[:number], answer[number] ^ 1, *answer[number + 1 :]))
        for data in (wrong,) if number != 4 else (bytes(answer),):
            body = data[:16] + to + data[20:]
            segment.send(ethernet.ip(ethernet.udp(body, 67, 68, receiver=to), receiver=to))

    for number in (0, 5, 33):
        answered(bytes((192, 0, 2, 99)), number)
    again = segment.udp(30)
    assert again is not None and again.data[8:10] == b"\0\1", "a reply for another client isn't accepted"
    answered(GUEST)
    guest.wait_for("My IP address is 192.0.2.2\n")
    assert Client(segment.exchange, KEY).open() == b"s"


def test_frames_that_are_wrong_are_dropped_and_the_rest_is_taken(wired: Guest, segment: Segment) -> None:
    client = Client(segment.exchange, KEY)
    client.open()
    request = seal(client.seq, b"R", KEY)
    body = ethernet.udp(request, 4000)
    damaged = ethernet.ip(body)
    for frame in (
        damaged[:24] + bytes((damaged[24] ^ 1,)) + damaged[25:],
        ethernet.ip(body[:6] + bytes((body[6] ^ 1,)) + body[7:]),
        ethernet.ip(ethernet.udp(request, 4000, receiver=HOST), receiver=HOST),
        ethernet.ip(ethernet.udp(request, 4000, 1139)),
        ethernet.ip(ethernet.udp(request, 4000, sender=GUEST), sender=GUEST),
        ethernet.ip(body)[:40],
        b"\0" * 60,
    ):
        segment.send(frame)
        assert segment.receive(0.3) is None
    # A checksum of 0 means none. The reply goes to the port that sent the open request, not to this request's port.
    segment.send(ethernet.ip(ethernet.udp(request, 4001)[:6] + b"\0\0" + request))
    found = segment.udp()
    assert found is not None and found.target == 4000 and found.data[6:7] == b"p"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 1, 2, 0)], ids=["in order", "backwards", "one twice"])
def test_fragments_become_a_datagram(wired: Guest, segment: Segment, order: tuple[int, ...]) -> None:
    client = Client(segment.exchange, KEY)
    client.open()
    body = ethernet.udp(seal(client.seq, b"R", KEY), 4000)
    pieces = [
        ethernet.ip(body[:16], 7, MORE),
        ethernet.ip(body[16:24], 7, MORE | 2),
        ethernet.ip(body[24:], 7, 3),
    ]
    stale = ethernet.ip(body[:16], 6, MORE)
    segment.send(stale, *(pieces[index] for index in order))
    found = segment.udp()
    assert found is not None and found.data[6:7] == b"p"


def test_malformed_fragments_do_no_harm(wired: Guest, segment: Segment) -> None:
    client = Client(segment.exchange, KEY)
    client.open()
    for place in (0x1FFF, MORE | 0x1FFF, 0x00FF, MORE):
        segment.send(ethernet.ip(b"x" * 1001, 9, place))
    assert segment.receive(0.5) is None
    assert len(client.registers()) == 16


@pytest.mark.parametrize("key", [b"sixteen bytes ok", b"k" * 64, b"a key that is longer than a block of MD5's " * 2])
def test_keys_of_all_lengths(segment: Segment, start: Callable[..., Guest], key: bytes) -> None:
    start(segment.netdev(), ADDRESSED, key=key).wait_for(WAITING)
    assert Client(segment.exchange, key).open() == b"s"


def test_without_card_or_key_it_runs(segment: Segment, start: Callable[..., Guest]) -> None:
    short = start(segment.netdev(), ADDRESSED, key=b"fifteen bytes..")
    short.wait_for("running\n")
    assert "IPKDBKEY must be at least 16 bytes long!\n" in short.said()
    nowhere = start("user,id=n", "-d slot=9 ipkdbkey=a-key-on-the-command-line", key=None)
    nowhere.wait_for("running\n")
    assert "IPKDB: No interface found!\n" in nowhere.said()


def test_the_ring_wraps_and_a_flood_is_survived(wired: Guest, segment: Segment) -> None:
    client = Client(segment.exchange, KEY)
    client.open()
    junk = ethernet.ip(ethernet.udp(b"j" * 1400, 4000, 9))
    for _ in range(20):
        segment.send(*[junk] * 12)
        assert len(client.registers()) == 16


def test_64_kib_by_gdb_at_a_tenth_lost(
    wired: Guest, segment: Segment, program: Path, empty_lab: LabPrefix, key_file: Path, tmp_path: Path
) -> None:
    dump = tmp_path / "memory"
    with Relay(segment, 0.1, 1) as relay:
        said = gdb(
            *(empty_lab, program, relay.port, key_file),
            *(f"dump binary memory {dump} &ramdisk[0] &ramdisk[65536]", "stepi 5", "print counter", "detach"),
        )
    assert dump.read_bytes() == FILLING * 256, said
    assert "$1 = 0" in said
    assert relay.lost > 20


def test_the_build_depends_on_no_path(tmp_path: Path, program: Path) -> None:
    copy_example(tmp_path / "b ü $x")
    again = build(tmp_path / "b ü $x" / IPKDB_EXAMPLE.name, tmp_path / "again.bin")
    assert again.read_bytes() == program.read_bytes()
    assert str(EXAMPLES).encode() not in program.read_bytes()
