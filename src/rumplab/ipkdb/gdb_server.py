"""Executes GDB's commands (GDB manual, appendix "Remote Protocol", section "Packets") on an IPKDB target.

Numbers in commands are hexadecimal. Data is in hexadecimal digits, except in ``X``, where it is binary. The reply to an
unknown command is empty, as the protocol defines.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from rumplab.gdb import rsp
from rumplab.ipkdb.arch import I386
from rumplab.ipkdb.breakpoints import Breakpoints, Unwritable
from rumplab.ipkdb.faults import Lost, Refused, Silent
from rumplab.ipkdb.link import Hint
from rumplab.ipkdb.packet import DATA_LIMIT
from rumplab.ipkdb.target import SPACE, Target

OK, UNKNOWN = b"OK", b""
BAD_COMMAND, BAD_MEMORY = b"E01", b"E0e"
# The bytes of one read by GDB: eight reads of IPKDB. This is enough to hide GDB's own delay between reads, and takes
# much less than GDB's timeout.
READ_LIMIT = 8 * DATA_LIMIT
PACKET_SIZE = 2 * READ_LIMIT + 32
CANNOT_INTERRUPT = (
    "IPKDB can't interrupt a running kernel: the kernel stops at a breakpoint or in a panic. If the kernel was"
    " restarted, end this session and attach again.\n"
)


class InvalidCommand(ValueError):
    """A command of GDB's is invalid for this target."""


class Stub:
    """One session with an opened target, which serves one GDB after the other. `say` prints messages that no reply can
    carry."""

    def __init__(self, target: Target, say: Callable[[str], None]) -> None:
        self.target, self.say = target, say
        self.breakpoints = Breakpoints(target)
        self.running = False
        self.over = False
        self._lock = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()
        self._area: bytes | None = None
        self._swbreak = False
        self._commands: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "?": self._why,
            "g": self._registers,
            "G": self._set_registers,
            "p": self._register,
            "P": self._set_register,
            "m": self._read,
            "M": self._write,
            "X": self._write_binary,
            "s": self._step,
            "c": self._continue,
            "S": self._signal,
            "C": self._signal,
            "D": self._detach,
            "k": self._kill,
            "Z": self._insert,
            "z": self._remove,
            "q": self._query,
            "Q": self._set,
        }

    async def handle(self, data: bytes) -> bytes | None:
        """The reply to one command; None for a command without a reply. Lost when the target is lost."""
        async with self._lock:
            command = self._commands.get(chr(data[0])) if data else None
            if command is None or self.over:
                return UNKNOWN
            try:
                reply = await command(data[1:])
            except (InvalidCommand, Refused) as error:
                self.say(str(error))
                return BAD_COMMAND
            return None if data == b"k" else reply

    def ready(self, data: bytes) -> bytes | None:
        """The reply to a read of registers or memory that is cached since the last stop; None for other commands."""
        if self._area is None or self.over or self._lock.locked():
            return None
        if data == b"g":
            return self._all(self._area)
        if not data.startswith(b"m"):
            return None
        try:
            address, size = self._range(data[1:])
        except InvalidCommand:
            return None
        found = self.breakpoints.kept(address, size)
        return None if found is None else binascii.hexlify(found)

    async def look_ahead(self) -> None:
        """After a stop: reads the memory at the program counter before GDB requests it."""
        async with self._lock:
            if self._area is not None and not self.over:
                # When the target is lost, the next command fails as well and reports it to GDB.
                with contextlib.suppress(Lost, Refused):
                    await self.breakpoints.look_ahead()

    def finish_in_background(self, task: asyncio.Task[Any]) -> None:
        """Keeps the command `task` running after its GDB has disconnected. The next GDB's first command waits for its
        end."""
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.say(str(error))

    async def detach(self) -> None:
        """Removes the breakpoints and detaches, so that the target runs. Waits while the target runs."""
        async with self._lock:
            await self._detach_target()

    async def _detach_target(self) -> None:
        await self.breakpoints.clear()
        self.over = True
        try:
            await self.target.detach(self.target.link.timing.detaching)
        except Silent:
            # A running kernel refuses IPKDB's port with an ICMP message, which confirms the detach as well.
            if not self.target.link.hints[Hint.REFUSED]:
                self.say("the target didn't confirm the detach; if it has detached, it answers no more requests")

    async def area(self) -> bytes:
        """The register area; requested from the target once per stop."""
        if self._area is None:
            return self._keep(await self.target.registers())
        return self._area

    def _keep(self, area: bytes) -> bytes:
        self._area = area
        self.breakpoints.stopped(self.target.arch.counter(area))
        return area

    async def _change(self, area: bytes) -> None:
        await self.target.set_registers(area)
        self._keep(area)

    # Stops

    async def _why(self, rest: bytes) -> bytes:
        return await self._stop_reply(False)

    async def _stop_reply(self, hit: bool) -> bytes:
        arch, area = self.target.arch, await self.area()
        parts = ["T05"]
        if hit and self._swbreak:
            parts.append("swbreak:;")
        for name in arch.shown:
            number = arch.number(name)
            parts.append(f"{number:02x}:{(arch.value(area, number) or b'').hex()};")
        return "".join(parts).encode("ascii")

    async def _run(self, how: Callable[[], Awaitable[None]]) -> bool:
        """Resumes the target with `how` and waits until it stops. Returns whether a breakpoint stopped it."""
        self._area = None
        self.running = True
        try:
            await how()
        finally:
            self.running = False
        area = await self.area()
        hit = self.breakpoints.hit(self.target.arch.counter(area))
        if hit is not None and self.target.arch.past_break:
            await self._change(self.target.arch.with_counter(area, hit))
        return hit is not None

    async def _go_to(self, rest: bytes) -> None:
        """Sets the program counter if the command has an address."""
        if rest:
            await self._change(self.target.arch.with_counter(await self.area(), number(rest)))

    async def _one_step(self) -> bool:
        at = self.target.arch.counter(await self.area())
        over = at in self.breakpoints.code
        if over:
            await self.breakpoints.lift(at)
        hit = await self._run(self.target.step)
        if over:
            await self.breakpoints.insert(at)
        return hit

    async def _step(self, rest: bytes) -> bytes:
        await self._go_to(rest)
        await self.breakpoints.settle()
        return await self._stop_reply(await self._one_step())

    async def _continue(self, rest: bytes) -> bytes:
        await self._go_to(rest)
        await self.breakpoints.settle()
        at = self.target.arch.counter(await self.area())
        if at in self.breakpoints.code and await self._one_step():
            return await self._stop_reply(True)
        return await self._stop_reply(await self._run(self.target.go))

    async def _signal(self, rest: bytes) -> bytes:
        raise InvalidCommand("IPKDB can't deliver a signal to a kernel; continue without one: signal 0")

    # Registers

    async def _registers(self, rest: bytes) -> bytes:
        return self._all(await self.area())

    def _all(self, area: bytes) -> bytes:
        return b"".join(self._shown(area, number) for number in range(len(self.target.arch.registers)))

    def _shown(self, area: bytes, number: int) -> bytes:
        value = self.target.arch.value(area, number)
        if value is None:
            return b"xx" * self.target.arch.registers[number].size
        return binascii.hexlify(value)

    async def _set_registers(self, rest: bytes) -> bytes:
        area, arch, at = await self.area(), self.target.arch, 0
        for index, register in enumerate(arch.registers):
            digits = rest[at : at + 2 * register.size]
            at += 2 * register.size
            if register.sent:
                if len(digits) != 2 * register.size:
                    raise InvalidCommand(
                        f"GDB set {len(rest) // 2} bytes of registers, too few for {arch.name}; in GDB:"
                        f" set architecture {arch.gdb_name}"
                    )
                area = arch.with_value(area, index, raw(digits))
        await self._change(area)
        return OK

    def _known(self, digits: bytes) -> int:
        index = number(digits)
        if index >= len(self.target.arch.registers):
            raise InvalidCommand(f"{self.target.arch.name} has no register {index}")
        return index

    async def _register(self, rest: bytes) -> bytes:
        return self._shown(await self.area(), self._known(rest))

    async def _set_register(self, rest: bytes) -> bytes:
        digits, _, value = rest.partition(b"=")
        try:
            area = self.target.arch.with_value(await self.area(), self._known(digits), raw(value))
        except ValueError as error:
            raise InvalidCommand(str(error)) from error
        await self._change(area)
        return OK

    # Memory

    async def _read(self, rest: bytes) -> bytes:
        address, size = self._range(rest)
        return binascii.hexlify(await self.breakpoints.read(address, min(size, READ_LIMIT)))

    async def _write(self, rest: bytes) -> bytes:
        place, _, digits = rest.partition(b":")
        return await self._write_data(place, raw(digits))

    async def _write_binary(self, rest: bytes) -> bytes:
        place, _, data = rest.partition(b":")
        return await self._write_data(place, data)

    async def _write_data(self, place: bytes, data: bytes) -> bytes:
        address, size = self._range(place)
        if size != len(data):
            raise InvalidCommand(f"GDB announced {size} bytes to write and sent {len(data)}")
        await self.breakpoints.write(address, data)
        return OK

    def _range(self, text: bytes) -> tuple[int, int]:
        """(address, size) of the text ``ADDRESS,SIZE``."""
        address, _, size = text.partition(b",")
        return self._address(address), number(size)

    def _address(self, digits: bytes) -> int:
        address = number(digits)
        if address >= SPACE:
            arch = self.target.arch
            raise InvalidCommand(
                f"GDB uses address {address:#x}, which {arch.name} doesn't have;"
                f" in GDB: set architecture {arch.gdb_name}"
            )
        return address

    # Breakpoints

    def _place(self, rest: bytes) -> int | None:
        """The address in ``TYPE,ADDRESS,KIND``; None unless the type is a software breakpoint."""
        fields = rest.split(b";")[0].split(b",")
        if fields[0] != b"0":
            return None
        if len(fields) != 3 or number(fields[2]) != len(self.target.arch.breakpoint):
            raise InvalidCommand(f"{self.target.arch.name} has no breakpoint of the kind that GDB requests")
        return self._address(fields[1])

    async def _insert(self, rest: bytes) -> bytes:
        address = self._place(rest)
        if address is None:
            return UNKNOWN
        try:
            await self.breakpoints.insert(address)
        except Unwritable as error:
            self.say(str(error))
            return BAD_MEMORY
        except ValueError as error:
            raise InvalidCommand(str(error)) from error
        return OK

    async def _remove(self, rest: bytes) -> bytes:
        address = self._place(rest)
        if address is None:
            return UNKNOWN
        self.breakpoints.remove(address)
        return OK

    # The session

    async def _detach(self, rest: bytes) -> bytes:
        await self._detach_target()
        return OK

    async def _kill(self, rest: bytes) -> bytes:
        # IPKDB can't kill a kernel, so the kernel continues as after a detach.
        await self._detach_target()
        return UNKNOWN

    async def _query(self, rest: bytes) -> bytes:
        name, _, arguments = rest.partition(b":")
        if name == b"Supported":
            return self._supported(arguments)
        if name == b"Attached":
            # "1" makes GDB detach at its end; else it would kill the target.
            return b"1"
        if rest.startswith(b"Xfer:features:read:target.xml:"):
            offset, size = self._range(rest.rpartition(b":")[2])
            text = self.target.arch.description().encode("ascii")
            more = b"m" if offset + size < len(text) else b"l"
            return more + rsp.escape(text[offset : offset + size])
        return UNKNOWN

    def _supported(self, arguments: bytes) -> bytes:
        features = arguments.split(b";")
        self._swbreak = b"swbreak+" in features
        for feature in features:
            name, _, value = feature.partition(b"=")
            # Only for i386: every GDB with support for it lists "i386" here.
            if name == b"xmlRegisters" and self.target.arch is I386 and b"i386" not in value.split(b","):
                self.say(
                    f"this GDB is made for {value.decode('ascii', 'replace')}, and the target is"
                    f" {self.target.arch.name}: use a GDB that supports it"
                )
        swbreak = ";swbreak+" if self._swbreak else ""
        return f"PacketSize={PACKET_SIZE:x};QStartNoAckMode+;qXfer:features:read+{swbreak}".encode("ascii")

    async def _set(self, rest: bytes) -> bytes:
        return OK if rest == b"StartNoAckMode" else UNKNOWN


def number(digits: bytes) -> int:
    """The number that `digits` represent in hexadecimal. InvalidCommand for other text."""
    if not digits or len(digits) > 16 or not rsp.HEX.issuperset(digits):
        raise InvalidCommand(f"GDB sent {digits[:32]!r} instead of a number")
    return int(digits, 16)


def raw(digits: bytes) -> bytes:
    """The bytes that `digits` represent in hexadecimal. InvalidCommand for other text."""
    try:
        return binascii.unhexlify(digits)
    except binascii.Error:
        raise InvalidCommand(f"GDB sent {digits[:32]!r} instead of data") from None
