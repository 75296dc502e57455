"""The requests to an opened target, for memory of any size and whole register areas."""

from __future__ import annotations

from rumplab.ipkdb import packet
from rumplab.ipkdb.arch import Arch
from rumplab.ipkdb.faults import Unexpected
from rumplab.ipkdb.link import Link

SPACE = 2**32


class Target:
    """A stopped target. Addresses have 32 bits: every architecture with IPKDB is a 32-bit one."""

    def __init__(self, link: Link, arch: Arch) -> None:
        self.link, self.arch = link, arch

    async def registers(self) -> bytes:
        """The register area. Unexpected when it doesn't have the architecture's size."""
        area = self._data(await self.link.request(packet.REGISTERS))
        if len(area) != self.arch.area:
            raise Unexpected(
                f"the target has {len(area)} bytes of registers, and {self.arch.name} has {self.arch.area};"
                " choose the target's architecture with --arch"
            )
        return area

    async def set_registers(self, area: bytes) -> None:
        self._done(await self.link.request(packet.SET_REGISTERS + area))

    async def read(self, address: int, size: int) -> bytes:
        """`size` bytes of memory. The protocol has no error for unreadable memory: its bytes are 0xff."""
        pieces = []
        for start, count in split(address, size):
            piece = self._data(await self.link.request(packet.peek(start, count)))
            if len(piece) != count:
                raise Unexpected(f"the target sent {len(piece)} bytes of memory instead of {count}")
            pieces.append(piece)
        return b"".join(pieces)

    async def write(self, address: int, data: bytes) -> None:
        """Writes memory. The protocol has no error for memory that can't be written."""
        for start, count in split(address, len(data)):
            begin = (start - address) % SPACE
            self._done(await self.link.request(packet.poke(start, data[begin : begin + count])))

    async def step(self) -> None:
        """Executes one instruction; returns when the target has stopped."""
        await self.link.resume(packet.STEP)

    async def go(self) -> None:
        """Continues; returns when the target has stopped again."""
        await self.link.resume(packet.CONTINUE)

    async def detach(self, patience: float) -> None:
        """Detaches, so that the target runs without a debugger. Silent when the target doesn't confirm it within
        `patience` seconds. If only the confirmation was lost, the target has detached and answers no repetition."""
        self._done(await self.link.request(packet.DETACH, patience))

    @staticmethod
    def _data(reply: bytes) -> bytes:
        if not reply.startswith(packet.DATA):
            raise Unexpected(f"the target answered a read request with {reply[:16]!r}")
        return reply[1:]

    @staticmethod
    def _done(reply: bytes) -> None:
        if reply != packet.DONE:
            raise Unexpected(f"the target answered a write or detach request with {reply[:16]!r}")


def split(address: int, size: int) -> list[tuple[int, int]]:
    """The (address, size) of each request for `size` bytes at `address`. Addresses wrap around at the end of memory."""
    limit = packet.DATA_LIMIT
    return [((address + at) % SPACE, min(limit, size - at)) for at in range(0, size, limit)]
