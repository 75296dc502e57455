"""Readers of protocols: GDB's in both directions, IPKDB's, QEMU's QMP, and a guest's console."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from ipkdb.kernel import KEY, seal
from ipkdb.lab import Bench
from ipkdb.network import VirtualLoop

from fuzz.engine import Reader
from fuzz.mutations import binary, document, text
from fuzz.records import written
from rumplab.commands.guest import pci
from rumplab.errors import RumplabError
from rumplab.gdb import pipe, rsp
from rumplab.gdb.rsp import Packet
from rumplab.guest import console as guest_console
from rumplab.guest import kernel_debugger, lines
from rumplab.host.answers import MALFORMED
from rumplab.ipkdb import check_port, console_messages, packet
from rumplab.ipkdb.arch import I386
from rumplab.ipkdb.decode import describe
from rumplab.ipkdb.gdb_server import Stub
from rumplab.ipkdb.link import Link, Timing
from rumplab.ipkdb.target import Target
from rumplab.ipkdb.trace import Trace
from rumplab.machine import accel, qmp, screen
from rumplab.machine.registry import Machine
from rumplab.machine.run_state import run_state

LOOP = VirtualLoop()
LOOP.set_exception_handler(lambda loop, context: None)
# The separator between the packets of an input.
PART = b"|~|"

# From GDB to the translator.

FRAMES = tuple(
    b"".join(map(rsp.frame, commands))
    for commands in (
        (b"qSupported:swbreak+;xmlRegisters=i386", b"QStartNoAckMode", b"?", b"g"),
        (b"m0,10", b"X0,2:\x01}\x03", b"M0,1:00", b"p8"),
    )
)


def gdb_stream(data: bytes, place: Path) -> object:
    """The parser must find the same commands in the whole input and in pieces, and buffer at most one packet."""
    whole, pieces = rsp.Parser(), rsp.Parser()
    found = list(whole.feed(data))
    size = 1 + len(data) % 7 if len(data) < 4096 else 1000
    again = [event for at in range(0, len(data), size) for event in pieces.feed(data[at : at + size])]
    assert [event for event in found if isinstance(event, Packet)] == [
        event for event in again if isinstance(event, Packet)
    ]
    assert len(pieces._frame or b"") <= rsp.PACKET_LIMIT
    return found


COMMANDS = (
    *(b"g", b"G" + b"00" * 64, b"p8", b"P0=00000000", b"mc0100000,8", b"Mc0200000,1:00", b"Xc0200000,1:a"),
    *(b"Z0,c0200000,1|~|z0,c0200000,1", b"qSupported:swbreak+", b"qXfer:features:read:target.xml:0,40", b"?", b"s"),
    *(b"D", b"Z0,c0100000,1|~|s|~|mc0100000,4|~|Mc0100000,2:0102|~|D", b"qAttached|~|Hg0|~|k"),
)


def gdb_commands(data: bytes, place: Path) -> object:
    """Run the commands in a session. It skips `c`, because the kernel then runs without end."""

    async def session() -> list[bytes | None]:
        bench = Bench()
        await bench.link.open("t", 10)
        served = bench.stub()
        trace = Trace(lambda line: None, lambda: 0.0)
        replies = []
        try:
            for command in data.split(PART)[:8]:
                if command[:1] != b"c":
                    trace.gdb(">", command)
                    served.ready(command)
                    replies.append(await asyncio.wait_for(served.handle(command), 60))
        except TimeoutError:
            # A command has set the kernel's program counter outside its program, so that it doesn't stop any more.
            return replies
        else:
            assert served.over or len(await served.handle(b"p0") or b"") == 8, (
                "the session doesn't answer after these commands"
            )
        finally:
            # Without a restart, the kernel would continue to run in the event loop.
            bench.kernel.boot()
        return replies

    for reply in LOOP.run_until_complete(session()):
        assert reply is None or len(reply) < rsp.PACKET_LIMIT
    return None


# From the kernel to the translator.

DATAGRAMS = tuple(seal(1, data) for data in (b"p" + bytes(9), b"s", b"ok", b"ewhat", b"O\0\0\1\0me"))


def datagram(data: bytes, place: Path) -> object:
    Link(KEY, lambda one: None, Timing(), random.Random(1)).received(data)
    found = packet.decode(data, None)
    describe(found.data)
    return packet.decode(data, KEY)


AREA = b"p" + struct.pack("<16I", *range(16))
REPLIES = (
    # The replies to: open, read registers, read and write memory, set a breakpoint, step, continue, write registers,
    # close.
    PART.join((b"s", AREA, b"p" + bytes(8), b"ok", b"p\0", b"ok", b"p\xcc", b"s", AREA, b"s", AREA, *[b"ok"] * 3)),
    PART.join((b"s", AREA, b"eno", b"eno", b"eno", b"s", AREA, b"s", AREA, b"ok", b"ok", b"ok")),
)


def answering(data: bytes) -> Link:
    """Return a link to a target whose replies are the parts of `data`, and then always "stopped".

    As a kernel, the target repeats its last reply to a datagram that isn't the next request.
    """
    answers: Iterator[bytes] = iter(data.split(PART))
    due, last = 0, b""

    def send(one: bytes) -> None:
        nonlocal due, last
        with contextlib.suppress(packet.Malformed, packet.BadMac):
            asked = packet.decode(one, KEY)
            if not asked.data[:1].isupper():
                pass
            elif asked.seq == due or (asked.data[:1] == packet.OPEN and due > 1):
                last = seal(asked.seq, next(answers, b"s")[: packet.DATAGRAM_LIMIT] or b"s")
                due = asked.seq + 1
        LOOP.call_soon(link.received, last)

    link: Link = Link(KEY, send, Timing(patience=2), random.Random(1))
    return link


def recorded() -> bytes:
    """Return the replies of a correct target to all requests of `check-port`."""

    async def answers() -> list[bytes]:
        bench, said = Bench(), []
        reply = bench.kernel.reply
        bench.kernel.reply = lambda data: (said.append(data), reply(data))  # type: ignore[func-returns-value,assignment]

        @contextlib.asynccontextmanager
        async def other(key: bytes) -> AsyncIterator[Link]:
            yield bench.add(("192.0.2.9", 1), key)

        rows = [row async for row in check_port.Checks(bench.link, I386, other, "t", False).run()]
        assert {row.result for row in rows} == {check_port.PASSED, check_port.SKIPPED}, rows
        bench.kernel.boot()
        return said

    return PART.join(LOOP.run_until_complete(answers()))


def checked_port(data: bytes, place: Path) -> object:
    """Run `check-port` on such a target. It must return a row for each check, whatever the target answers."""

    async def rows() -> list[check_port.Row]:
        link = answering(data)

        @contextlib.asynccontextmanager
        async def other(key: bytes) -> AsyncIterator[Link]:
            yield Link(key, link.send, Timing(patience=2), random.Random(1))

        return [row async for row in check_port.Checks(link, I386, other, "t", True).run()]

    return [row.as_data() for row in LOOP.run_until_complete(rows())]


def target(data: bytes, place: Path) -> object:
    """Run a session with a target that has the key, but sends arbitrary replies."""

    async def session() -> None:
        link = answering(data)
        await link.open("t", 2)
        served = Stub(Target(link, I386), lambda said: None)
        for command in (b"?", b"m100,8", b"M10,1:00", b"Z0,20,1", b"s", b"c", b"P0=00000000", b"D"):
            await served.handle(command)

    return LOOP.run_until_complete(session())


# The stub in a kernel, and QEMU's.


def stub_answer(data: bytes, place: Path) -> object:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        answered = kernel_debugger._answered(ours, 5.0)
        if answered:
            kernel_debugger._drain(ours)
    return answered


class Pipes:
    """Replaces a QEMU process with a debug stub on standard input and output; it has sent `said`."""

    def __init__(self, said: bytes) -> None:
        reading, writing = os.pipe()
        os.write(writing, said[:60_000])
        os.close(writing)
        self.stdout, self.stdin = os.fdopen(reading, "rb", buffering=0), io.BytesIO()


def probe_answer(data: bytes, place: Path) -> object:
    process: Any = Pipes(data)
    with process.stdout:
        return accel._debug(process, time.monotonic() + 5)


def wired(data: bytes, place: Path) -> object:
    """Feed both directions of the relay. It must remove only interrupts."""
    one, other = pipe.Stream(), pipe.Stream()
    half = len(data) // 2
    kept, interrupts = one.feed(data[:half], other)
    assert len(kept) + interrupts == half
    return other.feed(data[half:], one)


# QEMU's QMP socket.

GREETING = b'{"QMP": {"version": {"qemu": {"major": 9}}, "capabilities": []}}\r\n{"return": {}}\r\n'
PCI = json.dumps(
    {
        "return": [
            {
                "bus": 0,
                "devices": [
                    {"class_info": {"class": 1536}, "pci_bridge": {"devices": [{"class_info": {"class": 768}}]}},
                ],
            }
        ]
    }
).encode()
CHARDEVS = json.dumps(
    {
        "return": [
            {"label": "com1", "filename": "unix:/x,server=on <-> /y"},
            {"label": "gdb", "filename": "disconnected:tcp"},
        ]
    }
).encode()
UNUSED = b'[{"label": "com1", "filename": "disconnected:x"}]'
EVENT = b'{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}\r\n'
SESSIONS = (GREETING + EVENT + b'{"return": {"status": "running"}}\r\n' + PCI + b'\r\n{"return": "0: 0x1"}\r\n',)


def control(data: bytes, place: Path) -> object:
    """Use the input as all lines that QEMU sends in a session."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with qmp.Session(Path("x"), 5.0, ours) as session:
            return [session.status(), session.execute("query-pci"), session.monitor("info")]


def answers(data: bytes, place: Path) -> object:
    """Use the input as the value of `return` in the reply to each command."""
    machine = Machine("x", str(place), 1)
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return None
    replies = qmp.execute
    qmp.execute = lambda *words, **options: answer
    try:
        for ask in (run_state, kernel_debugger.state):
            try:
                ask(machine)
            except RumplabError:
                continue
        return lines.client(machine, "com1")
    finally:
        qmp.execute = replies


def devices(data: bytes, place: Path) -> object:
    return screen.has_display(json.loads(data)["return"])


MODE = b"0000000000000449: 0x03\n"
XP = b"00000000000b8000: 0x07410742 0x00000000\n00000000000b8008: 0x07200720 0x07200720\n"


def memory(data: bytes, place: Path) -> object:
    return screen.words(data.decode(errors="replace"), 1 if data.startswith(b"0000000000000") else 4)


# A guest's console.

CONSOLE = b"""\
Terminal type? [vt100] \r
IPKDB: waiting for remote debugger\r
My IP address is 10.0.1.50\r
000:03:0: Intel 82540EM (1000baseT Ethernet) [wm0]\r
000:00:0: Intel 82441FX [pchb0]\r
db{0}> \r
guest# """


def guest_says(data: bytes, place: Path) -> object:
    log = written(place, "serial.log", data)
    said = data.decode("latin-1")
    for pattern in (guest_console.PROMPT, kernel_debugger.SYSRQ):
        guest_console.re.search(pattern, said[-4096:])
    machine = Machine("x", str(place), 1)
    return [console_messages.meaning(log), guest_console.end(log), pci.parse(said), kernel_debugger.waits(machine)]


LOST = (RumplabError,)
ANSWERS = binary((PART, PART + b"s" + PART, PART + b"ok" + PART, PART + b"p", PART + b"e\xff", AREA, PART + PART))
STREAM = binary((b"$", b"#", b"#00", b"}", b"\x03", b"+", b"-", b"$#00", b"$OK#9a"))
READERS = (
    Reader("gdb-stream", gdb_stream, FRAMES, (), STREAM),
    Reader("gdb-commands", gdb_commands, COMMANDS, LOST, text(PART, b",", b":", b"ffffffff", b"fffffffff", b"=", b";")),
    Reader("ipkdb-datagram", datagram, DATAGRAMS, (packet.Malformed, packet.BadMac)),
    Reader("ipkdb-target", target, REPLIES, LOST, ANSWERS, packets=5),
    Reader("check-port", checked_port, (recorded(),), LOST, ANSWERS, packets=20),
    Reader("stub-answer", stub_answer, (b"+$T05thread:01;#07", b"$OK#9a$", b"xx$S05#b8"), (OSError,), STREAM),
    Reader("probe-answer", probe_answer, (b"+$OK#9a+$T05#b9+$OK#9a+$OK#9a+$S05#b8+$OK#9a",), (), STREAM),
    Reader("wire", wired, (FRAMES[0] + b"\x03$T05#b9+",), (), STREAM),
    Reader("qmp", control, SESSIONS, (qmp.QmpError,), binary((b"\r\n", EVENT, b"{", b"[" * 20_000 + b"\n", b"null\n"))),
    Reader("qmp-answers", answers, (CHARDEVS[11:-1], UNUSED), LOST, document("com1", "status")),
    Reader("query-pci", devices, (PCI,), MALFORMED, document(768, 1536)),
    Reader("monitor-memory", memory, (XP, MODE), (ValueError,), text(b"0x", b": ", b"0xfffffffff", b"-1", b"\xd9\xa3")),
    Reader("console", guest_says, (CONSOLE,), (), text(b"# ", b"[", b"]", b": ", b"000:", b"kgdb waiting...")),
)
