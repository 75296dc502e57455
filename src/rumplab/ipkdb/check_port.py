"""``rumplab ipkdb check-port``: checks on a live target that it implements IPKDB.

The target is stopped when the checks begin and runs when they end. The checks change registers and the memory at the
stack pointer, and restore both before the target runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rumplab.ipkdb import packet
from rumplab.ipkdb.arch import Arch
from rumplab.ipkdb.faults import Lost, Refused, Silent
from rumplab.ipkdb.link import Hint, Link
from rumplab.ipkdb.packet import Packet
from rumplab.ipkdb.target import Target

PASSED, FAILED, SKIPPED = "ok", "FAILED", "skipped"
SCRATCH = 16
QUIET_SECONDS = 0.5
TRIES = 3
WRONG_KEY = b"not this target's key at all"


class Wrong(Exception):
    """The target behaved differently; the message tells how."""


class Skip(Exception):
    """A check is skipped; the message tells why."""


@dataclass(frozen=True)
class Row:
    """One check and its result: PASSED, FAILED or SKIPPED."""

    name: str
    result: str
    detail: str

    def as_data(self) -> dict[str, Any]:
        return dict(vars(self))


Other = Callable[[bytes], "contextlib.AbstractAsyncContextManager[Link]"]


class Checks:
    """The checks, on a `link` that isn't opened yet. `other` makes a further link to the same target with another key.

    The docstring of each check is its name in the output.
    """

    def __init__(self, link: Link, arch: Arch, other: Other, who: str, oversized: bool) -> None:
        self.link, self.arch, self.other, self.who, self.oversized = link, arch, other, who, oversized
        self.target = Target(link, arch)
        self.area = b""
        self.lost = False

    async def run(self) -> AsyncIterator[Row]:
        """Yields the row of each check when it is done. Ends early, with `lost` set, when the target is lost."""
        for check in (
            self.opens,
            self.open_again,
            self.registers,
            self.set_registers,
            self.memory,
            self.largest_read,
            self.write_memory,
            self.unknown_command,
            self.bad_lengths,
            self.repeated_request,
            self.old_request,
            self.wrong_sequence,
            self.bad_hmac,
            self.long_length,
            self.lower_case,
            self.other_key,
            self.new_session,
            self.steps,
            self.stops_at_breakpoint,
            self.long_read,
            self.detaches,
        ):
            row = await self._row(check)
            yield row
            if self.lost:
                return

    async def _row(self, check: Callable[[], Awaitable[str]]) -> Row:
        name = (check.__doc__ or "").rstrip(".")
        try:
            return Row(name, PASSED, await check())
        except Skip as reason:
            return Row(name, SKIPPED, str(reason))
        except Lost as error:
            self.lost = True
            return Row(name, FAILED, str(error))
        except (Wrong, Refused) as error:
            await self._again()
            return Row(name, FAILED, str(error))

    async def _again(self) -> None:
        """Opens a new session: after a failed check, the target's sequence number may differ from the host's."""
        try:
            await self.link.open(self.who, self.link.timing.patience)
        except Lost:
            self.lost = True

    # Helpers

    async def replied(self, link: Link, datagram: bytes) -> Packet | None:
        """The target's answer to `datagram`; None after TRIES attempts without an answer."""
        loop = asyncio.get_running_loop()
        for _ in range(TRIES):
            await self.drained(link)
            link.send(datagram)
            until = loop.time() + QUIET_SECONDS
            while (item := await link.next(until)) is not None:
                if isinstance(item, Packet):
                    return item
        return None

    async def drained(self, link: Link) -> None:
        """Discards the answers that have arrived before the next request."""
        while await link.next(asyncio.get_running_loop().time()) is not None:
            pass

    async def repeats(self, datagram: bytes, expected: bytes) -> None:
        """Wrong unless the target answers `datagram` by repeating its last reply, whose data is `expected`."""
        reply = await self.replied(self.link, datagram)
        last = self.link.sequence - 1
        if reply is None:
            raise Wrong("no answer; it must send its last reply again")
        if reply != Packet(last, expected):
            raise Wrong(f"answered {reply.seq} {reply.data[:16]!r} instead of its last reply, {last} {expected[:16]!r}")

    def next_datagram(self, data: bytes, ahead: int = 0) -> bytes:
        """A request with the next sequence number, or with one that is `ahead` higher."""
        return packet.encode(Packet(self.link.sequence + ahead, data), self.link.key)

    async def refused(self, data: bytes) -> str:
        """The text of the error with which the target answers `data`. Wrong when it answers otherwise."""
        try:
            reply = await self.link.request(data)
        except Refused as error:
            return str(error)
        raise Wrong(f"answered {reply[:16]!r} instead of an error")

    def scratch(self) -> int:
        """The address of memory that the checks may change: the stack of the interrupted code."""
        name = next(name for name in self.arch.shown if name != self.arch.pc)
        value = self.arch.value(self.area, self.arch.number(name)) or b""
        return int.from_bytes(value, self.arch.byte_order)

    @contextlib.asynccontextmanager
    async def scratch_memory(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yields (address, content) of memory that may be changed, and restores the content at the end."""
        address = self.scratch()
        content = await self.target.read(address, SCRATCH)
        try:
            yield address, content
        except Wrong:
            await self._again()
            raise
        finally:
            await self.target.write(address, content)

    # Checks

    async def opens(self) -> str:
        """Opens."""
        await self.link.open(self.who, self.link.timing.patience)
        return ""

    async def open_again(self) -> str:
        """The same opening again: the last reply again."""
        identity = self.link.identity
        await self.repeats(
            packet.encode(Packet(0, packet.open_request(identity, self.who)), self.link.key), packet.STOPPED
        )
        return ""

    async def registers(self) -> str:
        """R: registers."""
        self.area = await self.target.registers()
        return f"{len(self.area)} bytes, {self.arch.pc} {self.arch.counter(self.area):#x}"

    async def set_registers(self) -> str:
        """W: registers, changed and put back."""
        number = 0
        value = self.arch.value(self.area, number) or b""
        changed = self.arch.with_value(self.area, number, bytes(byte ^ 0x5A for byte in value))
        await self.target.set_registers(changed)
        try:
            if await self.target.registers() != changed:
                raise Wrong(f"{self.arch.registers[number].name} doesn't have the value that was written")
        finally:
            await self.target.set_registers(self.area)
        return ""

    async def memory(self) -> str:
        """M: memory at the program counter."""
        at = self.arch.counter(self.area)
        return f"{at:#x}: {(await self.target.read(at, 8)).hex(' ')}"

    async def largest_read(self) -> str:
        """M: as much as a reply holds."""
        at = self.arch.counter(self.area)
        for size in (packet.DATA_LIMIT, packet.BUFFER - 1):
            reply = await self.link.request(packet.peek(at, size))
            if len(reply) != size + 1:
                raise Wrong(f"{len(reply) - 1} bytes instead of {size}")
        return f"{packet.BUFFER - 1} bytes"

    async def write_memory(self) -> str:
        """N: memory, changed and put back."""
        async with self.scratch_memory() as (address, content):
            changed = bytes(byte ^ 0xFF for byte in content)
            await self.target.write(address, changed)
            found = await self.target.read(address, SCRATCH)
            if found != changed:
                raise Wrong(f"{address:#x} holds {found.hex()}, written was {changed.hex()}")
        return f"{SCRATCH} bytes at {address:#x}"

    async def unknown_command(self) -> str:
        """An unknown command: an error."""
        return await self.refused(b"Q")

    async def bad_lengths(self) -> str:
        """Commands that are too short: errors, and nothing done."""
        word = packet.WORD.pack(self.scratch())
        before = await self.target.read(self.scratch(), SCRATCH)
        for data in (b"W" + self.area[:-1], b"M" + word, b"N" + word, b"N" + word + packet.WORD.pack(8) + b"\0" * 4):
            try:
                await self.refused(data)
            except Wrong as error:
                raise Wrong(f"{chr(data[0])}, {len(data)} bytes: {error}") from None
        if await self.target.read(self.scratch(), SCRATCH) != before:
            raise Wrong("memory was written by a command that is too short")
        return ""

    async def repeated_request(self) -> str:
        """A request twice: done once, answered twice."""
        async with self.scratch_memory() as (address, content):
            request = self.next_datagram(packet.poke(address, bytes(byte ^ 0x0F for byte in content)))
            await self.target.write(address, bytes(byte ^ 0x0F for byte in content))
            await self.repeats(request, packet.DONE)
        return ""

    async def old_request(self) -> str:
        """A request from before: not done again."""
        async with self.scratch_memory() as (address, content):
            old = self.next_datagram(packet.poke(address, bytes(byte ^ 0xF0 for byte in content)))
            await self.target.write(address, bytes(byte ^ 0xF0 for byte in content))
            await self.target.write(address, content)
            await self.repeats(old, packet.DONE)
            if await self.target.read(address, SCRATCH) != content:
                raise Wrong("an old request has been done again")
        return ""

    async def wrong_sequence(self) -> str:
        """A request out of turn: not done, the last reply again."""
        return await self.ignored(lambda data: self.next_datagram(data, ahead=7))

    async def bad_hmac(self) -> str:
        """A wrong HMAC: not done, the last reply again."""
        return await self.ignored(lambda data: damaged(self.next_datagram(data)))

    async def lower_case(self) -> str:
        """A reply for a request: not taken, the last reply again."""
        return await self.ignored(lambda data: self.next_datagram(data[:1].lower() + data[1:]))

    async def long_length(self) -> str:
        """A length beyond the datagram's end: not done, the last reply again."""

        def make(data: bytes) -> bytes:
            whole = self.next_datagram(data)
            return whole[:4] + (len(data) + 64).to_bytes(2, "big") + whole[6:]

        return await self.ignored(make)

    async def ignored(self, make: Callable[[bytes], bytes]) -> str:
        async with self.scratch_memory() as (address, content):
            await self.target.write(address, content)
            await self.repeats(make(packet.poke(address, bytes(byte ^ 0xFF for byte in content))), packet.DONE)
            if await self.target.read(address, SCRATCH) != content:
                raise Wrong("the request has been done")
        return ""

    async def other_key(self) -> str:
        """An opening with another key: no answer, and the session goes on."""
        async with self.other(WRONG_KEY) as stranger:
            request = packet.open_request(self.link.identity ^ 1, self.who)
            await self.replied(stranger, packet.encode(Packet(0, request), WRONG_KEY))
            heard = stranger.hints[Hint.DAMAGED]
        if heard:
            raise Wrong("it answered")
        if await self.target.registers() != self.area:
            raise Wrong("the registers aren't what they were")
        return ""

    async def new_session(self) -> str:
        """Another opening: a new session, which begins at 0."""
        await self.link.open(self.who, self.link.timing.patience)
        if await self.target.registers() != self.area:
            raise Wrong("the registers aren't what they were")
        return ""

    async def steps(self) -> str:
        """S: one instruction, once though asked twice."""
        request = self.next_datagram(packet.STEP)
        await self.target.step()
        after = await self.target.registers()
        # The last reply is the one to R, not to S.
        await self.repeats(request, packet.DATA + after)
        before, self.area = self.arch.counter(self.area), after
        return f"{before:#x} to {self.arch.counter(after):#x}"

    async def stops_at_breakpoint(self) -> str:
        """C: stops at a breakpoint under the program counter."""
        at = self.arch.counter(self.area)
        code = await self.target.read(at, len(self.arch.breakpoint))
        await self.target.write(at, self.arch.breakpoint)
        try:
            await asyncio.wait_for(self.target.go(), self.link.timing.patience)
        except asyncio.TimeoutError:
            # A running kernel answers no request, so the code can't be restored.
            left = f"the breakpoint at {at:#x} (was {code.hex()}) is still there"
            raise Silent(f"heard nothing after C; {left}") from None
        after = await self.target.registers()
        await self.target.write(at, code)
        await self.target.set_registers(self.area)
        if self.arch.counter(after) != at + self.arch.past_break:
            raise Wrong(f"{self.arch.pc} is {self.arch.counter(after):#x}, not {at + self.arch.past_break:#x}")
        return f"{self.arch.pc} {self.arch.counter(after):#x}"

    async def long_read(self) -> str:
        """M: more than a reply holds is refused."""
        if not self.oversized:
            raise Skip("NetBSD's own overruns its buffer; --oversized tries it")
        return await self.refused(packet.peek(self.arch.counter(self.area), packet.BUFFER))

    async def detaches(self) -> str:
        """X: detaches, and then listens to nobody."""
        request = self.next_datagram(packet.REGISTERS, ahead=1)
        await self.target.detach(self.link.timing.patience)
        reply = await self.replied(self.link, request)
        if reply is not None:
            raise Wrong(f"still answers: {reply.data[:16]!r}")
        return ""


def damaged(datagram: bytes) -> bytes:
    """The datagram with its last bit inverted."""
    return datagram[:-1] + bytes((datagram[-1] ^ 1,))
