"""Breakpoints. IPKDB has no request for them, so the host writes an instruction over the code and keeps the old code.

GDB removes its breakpoints at every stop and inserts them again before it resumes. To save the requests, a removed
breakpoint stays in memory until the target is resumed. All reads and writes of memory go through this module, which
hides the breakpoints from GDB.
"""

from __future__ import annotations

from rumplab.errors import RumplabError
from rumplab.ipkdb.target import SPACE, Target

LINE = 64


class Unwritable(RumplabError):
    """Memory doesn't contain the breakpoint that was written to it."""


class Breakpoints:
    """The breakpoints of one session. `code` maps the address of each breakpoint in memory to the code that it
    replaces; `wanted` are the addresses of the breakpoints that GDB has inserted.

    GDB reads the instruction at the program counter several times per stop. So the memory around it is cached, and may
    be read in advance: it is executed, so it isn't a device's registers. No other memory is cached.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.instruction = target.arch.breakpoint
        self.code: dict[int, bytes] = {}
        self.wanted: set[int] = set()
        self._line: tuple[int, bytes] | None = None
        self._counter: int | None = None

    def stopped(self, counter: int) -> None:
        """Records that the target has stopped at `counter`; empties the cache."""
        self._counter, self._line = counter, None

    async def insert(self, address: int) -> None:
        """Inserts a breakpoint, unless it is in memory. ValueError when it overlaps another one; Unwritable when the
        memory is read-only."""
        if address not in self.code:
            size = len(self.instruction)
            if any(abs(address - other) < size for other in self.code):
                raise ValueError(f"a breakpoint at {address:#x} would overlap another")
            # The old code is recorded before the write, so that `clear` restores it even if the write fails midway.
            self.code[address] = await self.target.read(address, size)
            await self._put(address, self.instruction)
            if await self.target.read(address, size) != self.instruction:
                await self.lift(address)
                raise Unwritable(f"the memory at {address:#x} can't be written, so no breakpoint can be set there")
        self.wanted.add(address)

    def remove(self, address: int) -> None:
        """Marks a breakpoint as removed; the next `settle` restores the code."""
        self.wanted.discard(address)

    async def settle(self) -> None:
        """Restores the code of the removed breakpoints. Called before the target runs."""
        for address in sorted(self.code.keys() - self.wanted):
            await self.lift(address)

    async def lift(self, address: int) -> None:
        """Restores the code of one breakpoint."""
        await self._put(address, self.code[address])
        del self.code[address]

    async def clear(self) -> None:
        """Restores the code of all breakpoints."""
        self.wanted.clear()
        await self.settle()

    async def read(self, address: int, size: int) -> bytes:
        """`size` bytes of memory, with the original code in place of breakpoints."""
        return self._laid_over(address, await self._get(address, size))

    def kept(self, address: int, size: int) -> bytes | None:
        """As `read`, from the cache; None when the cache doesn't contain this memory."""
        if self._line is None:
            return None
        base, line = self._line
        if not base <= address <= address + size <= base + LINE:
            return None
        return self._laid_over(address, line[address - base : address - base + size])

    async def look_ahead(self) -> None:
        """Reads the memory around the program counter into the cache, since GDB reads it at every stop."""
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
        """Writes memory. Where a breakpoint is in memory, changes the recorded code and leaves the breakpoint."""
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
        """The address of the breakpoint that stopped the target with the program counter `counter`; None if none did.

        A single step of a jump to the address after a breakpoint gives the same program counter. The kernel doesn't
        tell the two apart; a breakpoint in an interrupt handler is the likelier cause.
        """
        address = (counter - self.target.arch.past_break) % SPACE
        return address if address in self.code else None
