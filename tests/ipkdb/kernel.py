"""A kernel with IPKDB that behaves as NetBSD's does, on a simulated processor with a few i386 instructions.

The protocol: a request or reply is `seq` (u32) and `length` (u16), both big-endian, the data, and the HMAC-MD5 of all
before it. When the kernel receives a datagram that isn't the next request, it repeats its last reply to the connected
debugger. It has no timer that repeats a reply.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

KEY = b"a key for the laboratory"
NAMES = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags", "cs", "ss", "ds", "es", "fs", "gs")
TEXT, DATA, STACK = 0xC0100000, 0xC0200000, 0xC0300000
PAGE = 0x1000
# A loop: nop; nop; inc eax; inc ecx; inc eax; jmp back to its first instruction.
PROGRAM = bytes.fromhex("90 90 40 41 40 eb f9".replace(" ", ""))
LOOP_INCREMENT = TEXT + 2
INT3 = 0xCC
BURST = 500
FILLING = [bytes((page * 7 + at * 13 + (at >> 8)) & 0xFF for at in range(PAGE)) for page in range(16)]


def hmac_md5(key: bytes, message: bytes) -> bytes:
    """Return the HMAC-MD5, computed step by step as RFC 2104 defines it."""
    if len(key) > 64:
        key = hashlib.md5(key).digest()
    key = key.ljust(64, b"\0")
    inner = hashlib.md5(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.md5(bytes(byte ^ 0x5C for byte in key) + inner).digest()


def seal(seq: int, data: bytes, key: bytes = KEY) -> bytes:
    body = struct.pack(">IH", seq & 0xFFFFFFFF, len(data)) + data
    return body + hmac_md5(key, body)


@dataclass
class Cpu:
    """Registers, and memory in pages. Other pages can't be read or written, and those in `locked` not written."""

    registers: dict[str, int] = field(default_factory=dict)
    pages: dict[int, bytearray] = field(default_factory=dict)
    locked: set[int] = field(default_factory=set)

    def byte(self, address: int) -> int | None:
        page = self.pages.get(address // PAGE)
        return None if page is None else page[address % PAGE]

    def store(self, address: int, value: int) -> None:
        if address // PAGE in self.pages and address // PAGE not in self.locked:
            self.pages[address // PAGE][address % PAGE] = value

    def step(self) -> bool:
        """Execute one instruction, and return whether it was a breakpoint."""
        at = self.registers["eip"]
        code = self.byte(at)
        self.registers["eip"] = at + 1
        if code == INT3:
            return True
        if code is not None and 0x40 <= code < 0x48:
            name = NAMES[code - 0x40]
            self.registers[name] = (self.registers[name] + 1) & 0xFFFFFFFF
        elif code == 0xEB:
            distance = self.byte(at + 1) or 0
            self.registers["eip"] = at + 2 + (distance - 256 if distance > 127 else distance)
        elif code != 0x90:
            raise AssertionError(f"no instruction at {at:#x}: {code}")
        return False


def make_cpu() -> Cpu:
    cpu = Cpu({name: 0x1000 + number for number, name in enumerate(NAMES)})
    cpu.registers.update(eip=TEXT, esp=STACK + 0x800, eflags=0x202, cs=8, ss=0x10, eax=0, ecx=0)
    for base in (TEXT, DATA, STACK):
        for page in range(16 if base == DATA else 1):
            cpu.pages[base // PAGE + page] = bytearray(PAGE)
    cpu.pages[TEXT // PAGE][: len(PROGRAM)] = PROGRAM
    for page, filling in enumerate(FILLING):
        cpu.pages[DATA // PAGE + page][:] = filling
    return cpu


class Kernel:
    """One kernel, booted with -d, so that it waits for a debugger.

    `send(datagram, peer)` sends a datagram. `later(seconds, act)` calls `act` after that time; the kernel uses it while
    it runs. The kernel calls `refuse(peer)` for a datagram that arrives while it runs. `done` lists the data of each
    executed command.
    """

    def __init__(
        self,
        send: Callable[[bytes, object], None],
        later: Callable[[float, Callable[[], None]], None],
        key: bytes = KEY,
        refuse: Callable[[object], None] = lambda peer: None,
    ) -> None:
        self.send, self.later, self.key, self.refuse = send, later, key, refuse
        self.cpu = make_cpu()
        self.done: list[bytes] = []
        self.running = False
        self.detached = False
        self.boot()

    def boot(self) -> None:
        """Restart: the kernel forgets all debuggers, and the memory has its first content again."""
        self.cpu = make_cpu()
        self.seq, self.last = 0, b""
        self.identity = 0
        self.peer: object = None
        self.generation = getattr(self, "generation", 0) + 1
        self.running = self.detached = False
        self.reply(b"s")

    def reply(self, data: bytes) -> None:
        self.last = seal(self.seq, data, self.key)
        self.seq += 1
        self.repeat()

    def repeat(self) -> None:
        if self.peer is not None:
            self.send(self.last, self.peer)

    def receive(self, datagram: bytes, peer: object) -> None:
        if self.running or self.detached:
            self.refuse(peer)
            return
        request = self.opening(datagram, peer)
        if request is None and (self.peer is None or peer[0] != self.peer[0]):  # type: ignore[index]
            return
        request = request or self.expected(datagram)
        if request is None:
            self.repeat()
        else:
            self.carry_out(request)

    def authentic(self, datagram: bytes) -> bytes | None:
        """Return the data of a complete datagram with a correct HMAC, else None."""
        if len(datagram) < 7:
            return None
        (length,) = struct.unpack_from(">H", datagram, 4)
        end = 6 + length
        if not length or datagram[end : end + 16] != hmac_md5(self.key, datagram[:end]):
            return None
        return datagram[6:end]

    def opening(self, datagram: bytes, peer: object) -> bytes | None:
        if datagram[:4] != b"\0\0\0\0" or datagram[6:7] != b"O":
            return None
        data = self.authentic(datagram)
        if data is None or len(data) < 5:
            return None
        (identity,) = struct.unpack_from(">I", data, 1)
        if identity == self.identity:
            return None
        self.identity, self.seq, self.peer, self.last = identity, 0, peer, b""
        return data

    def expected(self, datagram: bytes) -> bytes | None:
        if len(datagram) < 7 or not b"A" <= datagram[6:7] <= b"Z":
            return None
        if struct.unpack_from(">I", datagram)[0] != self.seq & 0xFFFFFFFF:
            return None
        return self.authentic(datagram)

    def carry_out(self, data: bytes) -> None:
        command = data[:1]
        self.done.append(data)
        if command == b"O":
            self.reply(b"s")
        elif command == b"R":
            self.reply(b"p" + struct.pack("<16I", *(self.cpu.registers[name] for name in NAMES)))
        elif command == b"W":
            if len(data) != 65:
                self.reply(b"einvalid register size")
                return
            values = dict(zip(NAMES, struct.unpack("<16I", data[1:]), strict=True))
            self.cpu.registers.update(values)
            self.reply(b"ok")
        elif command == b"M":
            self.peek(data[1:])
        elif command == b"N":
            self.poke(data[1:])
        elif command == b"S":
            self.run(1)
        elif command == b"C":
            self.run(None)
        elif command == b"X":
            self.reply(b"ok")
            self.detached = True
        else:
            self.reply(b"eunknown command")

    def peek(self, rest: bytes) -> None:
        if len(rest) < 8:
            self.reply(b"einvalid peek format")
            return
        address, size = struct.unpack_from(">II", rest)
        assert size < 512, "the request would overflow the kernel's buffer"
        values = (self.cpu.byte((address + at) & 0xFFFFFFFF) for at in range(size))
        self.reply(b"p" + bytes(255 if value is None else value for value in values))

    def poke(self, rest: bytes) -> None:
        if len(rest) < 8 or len(rest) - 8 < struct.unpack_from(">I", rest, 4)[0]:
            self.reply(b"einvalid poke format")
            return
        assert len(rest) < 512, "the request would overflow the kernel's buffer"
        address, size = struct.unpack_from(">II", rest)
        for at in range(size):
            self.cpu.store((address + at) & 0xFFFFFFFF, rest[8 + at])
        self.reply(b"ok")

    def run(self, instructions: int | None) -> None:
        """Run the processor for that many instructions, or until a breakpoint if None."""
        self.running = True
        generation = self.generation

        def stop() -> None:
            if generation == self.generation and self.running:
                self.running = False
                self.reply(b"s")

        def burst() -> None:
            if generation != self.generation or not self.running:
                return
            for _ in range(instructions or BURST):
                if self.cpu.step():
                    stop()
                    return
            if instructions:
                stop()
            else:
                self.later(0.25, burst)

        self.later(0.001, burst)
