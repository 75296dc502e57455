"""Breakpoints, which IPKDB leaves to the host: an instruction written over code, and the code kept here.

GDB takes its breakpoints out at every stop and puts them in again before it goes on. What it takes out stays in
memory until the target is resumed, so that putting it in again costs nothing; all reads and writes of memory go
through here and never show the difference.
"""

from __future__ import annotations

from rumplab.errors import RumplabError
from rumplab.ipkdb.target import SPACE, Target

LINE = 64


class Unwritable(RumplabError):
    """Memory that doesn't hold what was written to it."""


class Breakpoints:
    """The breakpoints of one session. `code` has what stood at each that is in memory, `wanted` those that count.

    GDB looks at the instruction under the program counter several times a stop, so the memory around it is kept once
    it has been read, and may be read before it is asked for: it is executed, and so no device's. Nothing else is.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.instruction = target.arch.breakpoint
        self.code: dict[int, bytes] = {}
        self.wanted: set[int] = set()
        self._line: tuple[int, bytes] | None = None
        self._counter: int | None = None

    def stopped(self, counter: int) -> None:
        """The target has stopped there."""
        self._counter, self._line = counter, None

    async def insert(self, address: int) -> None:
        """Puts one in, or keeps it. ValueError when it overlaps another; Unwritable when memory doesn't take it."""
        if address not in self.code:
            size = len(self.instruction)
            if any(abs(address - other) < size for other in self.code):
                raise ValueError(f"a breakpoint at {address:#x} would overlap another")
            # On record before it is there: whatever comes between, `clear` restores it.
            self.code[address] = await self.target.read(address, size)
            await self._put(address, self.instruction)
            if await self.target.read(address, size) != self.instruction:
                await self.lift(address)
                raise Unwritable(f"the memory at {address:#x} doesn't take a breakpoint: it can't be written")
        self.wanted.add(address)

    def remove(self, address: int) -> None:
        """GDB wants it no longer; it leaves memory at the next `settle`."""
        self.wanted.discard(address)

    async def settle(self) -> None:
        """Takes those out of memory that nobody wants any more, as before the target runs."""
        for address in sorted(self.code.keys() - self.wanted):
            await self.lift(address)

    async def lift(self, address: int) -> None:
        """Takes one out of memory."""
        await self._put(address, self.code[address])
        del self.code[address]

    async def clear(self) -> None:
        """Takes all out of memory."""
        self.wanted.clear()
        await self.settle()

    async def read(self, address: int, size: int) -> bytes:
        """Memory as it is without breakpoints."""
        return self._laid_over(address, await self._get(address, size))

    def kept(self, address: int, size: int) -> bytes | None:
        """The same, where it has been read since the stop; else None."""
        if self._line is None:
            return None
        base, line = self._line
        if not base <= address <= address + size <= base + LINE:
            return None
        return self._laid_over(address, line[address - base : address - base + size])

    async def look_ahead(self) -> None:
        """Reads the memory around the program counter, which GDB wants to see at every stop."""
        if self._line is None and self._counter is not None:
            base = self._counter - self._counter % LINE
            self._line = base, await self.target.read(base, LINE)

    async def _get(self, address: int, size: int) -> bytes:
        base = address - address % LINE
        near = self._counter is not None and base == self._counter - self._counter % LINE
        if not near or address + size > base + LINE:
            return await self.target.read(address, size)
        await self.look_ahead()
        assert self._line is not None
        return self._line[1][address - base : address - base + size]

    async def _put(self, address: int, data: bytes) -> None:
        self._line = None
        await self.target.write(address, data)

    async def write(self, address: int, data: bytes) -> None:
        """Changes memory; where a breakpoint stands, the code that comes back when it goes."""
        raw = bytearray(data)
        changed = {}
        for place, code in self.code.items():
            kept = bytearray(code)
            for index in range(len(code)):
                at = (place + index - address) % SPACE
                if at < len(data):
                    kept[index], raw[at] = data[at], self.instruction[index]
            changed[place] = bytes(kept)
        await self._put(address, bytes(raw))
        self.code.update(changed)

    def _laid_over(self, address: int, data: bytes) -> bytes:
        shown = bytearray(data)
        for place, code in self.code.items():
            for index, byte in enumerate(code):
                at = (place + index - address) % SPACE
                if at < len(data):
                    shown[at] = byte
        return bytes(shown)

    def hit(self, counter: int) -> int | None:
        """The address of the breakpoint that left the program counter there; None if none did.

        An instruction that is stepped over and jumps right behind a breakpoint on a one-byte instruction looks the
        same. The kernel doesn't say which it was, and a breakpoint in an interrupt's handler is the likelier.
        """
        address = (counter - self.target.arch.past_break) % SPACE
        return address if address in self.code else None
