"""The commands of an opened target, in units that GDB thinks in: any size of memory, whole register areas."""

from __future__ import annotations

from rumplab.ipkdb import packet
from rumplab.ipkdb.arch import Arch
from rumplab.ipkdb.faults import Unexpected
from rumplab.ipkdb.link import Link

SPACE = 2**32


class Target:
    """A stopped target. Addresses have 32 bits, as all machines that ever had IPKDB."""

    def __init__(self, link: Link, arch: Arch) -> None:
        self.link, self.arch = link, arch

    async def registers(self) -> bytes:
        """The register area. Unexpected when it hasn't the architecture's size."""
        area = self._data(await self.link.request(packet.REGISTERS))
        if len(area) != self.arch.area:
            raise Unexpected(
                f"the target has {len(area)} bytes of registers, and {self.arch.name} {self.arch.area};"
                " choose its architecture with --arch"
            )
        return area

    async def set_registers(self, area: bytes) -> None:
        self._done(await self.link.request(packet.SET_REGISTERS + area))

    async def read(self, address: int, size: int) -> bytes:
        """`size` bytes of memory. What can't be read comes as 0xff bytes: the protocol has no word for it."""
        pieces = []
        for start, count in split(address, size):
            piece = self._data(await self.link.request(packet.peek(start, count)))
            if len(piece) != count:
                raise Unexpected(f"the target sent {len(piece)} bytes of memory instead of {count}")
            pieces.append(piece)
        return b"".join(pieces)

    async def write(self, address: int, data: bytes) -> None:
        """Writes memory. The protocol doesn't say when that had no effect."""
        for start, count in split(address, len(data)):
            begin = (start - address) % SPACE
            self._done(await self.link.request(packet.poke(start, data[begin : begin + count])))

    async def step(self) -> None:
        """One instruction; returns when the target has stopped."""
        await self.link.resume(packet.STEP)

    async def go(self) -> None:
        """Returns when the target has stopped again."""
        await self.link.resume(packet.CONTINUE)

    async def detach(self, patience: float) -> None:
        """Lets the target run on without a debugger. Silent when that isn't confirmed, as when the answer is lost: a
        target that has detached says nothing any more."""
        self._done(await self.link.request(packet.DETACH, patience))

    @staticmethod
    def _data(reply: bytes) -> bytes:
        if not reply.startswith(packet.DATA):
            raise Unexpected(f"the target answered a reading with {reply[:16]!r}")
        return reply[1:]

    @staticmethod
    def _done(reply: bytes) -> None:
        if reply != packet.DONE:
            raise Unexpected(f"the target answered a change with {reply[:16]!r}")


def split(address: int, size: int) -> list[tuple[int, int]]:
    """(address, size) of the requests for `size` bytes at `address`, which may go round the end of memory."""
    limit = packet.DATA_LIMIT
    return [((address + at) % SPACE, min(limit, size - at)) for at in range(0, size, limit)]
