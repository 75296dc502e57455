"""The network of a link: a UDP socket that is connected to the target, and a capture of its datagrams."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from typing import Any

from rumplab.errors import RumplabError
from rumplab.ipkdb.ipv4 import Datagram
from rumplab.ipkdb.link import Hint, Link, Timing
from rumplab.ipkdb.packet import DATAGRAM_LIMIT, Packet
from rumplab.ipkdb.pcap import Writer

Place = tuple[IPv4Address, int]


class Wire(asyncio.DatagramProtocol):
    """Passes datagrams between the socket and a link. Ignores a failed send: the link repeats its request."""

    def __init__(self, sock: socket.socket, target: Place, capture: Writer | None) -> None:
        self.sock, self.target, self.capture = sock, target, capture
        self.link: Link | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._here: Place | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        host, port = transport.get_extra_info("sockname")[:2]
        self._here = IPv4Address(host), port

    def send(self, datagram: bytes) -> None:
        self._record(True, datagram)
        if self._transport is not None:
            self._transport.sendto(datagram)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._record(False, data)
        if self.link is not None and len(data) <= DATAGRAM_LIMIT:
            self.link.received(data)

    def error_received(self, exc: Exception) -> None:
        if self.link is not None:
            refused = isinstance(exc, ConnectionRefusedError)
            self.link.hinted(Hint.REFUSED if refused else Hint.UNREACHABLE)

    def linger(self, seconds: float) -> None:
        """Waits up to `seconds` for a datagram, blocking the event loop, and passes it to the link."""
        if select.select([self.sock], [], [], seconds)[0]:
            try:
                data = self.sock.recv(DATAGRAM_LIMIT + 1)
            except BlockingIOError:
                # The kernel has dropped a datagram with a wrong checksum after select() reported it.
                return
            except OSError as error:
                self.error_received(error)
            else:
                self.datagram_received(data, None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _record(self, outward: bool, payload: bytes) -> None:
        if self.capture is not None and self._here is not None:
            source, target = (self._here, self.target) if outward else (self.target, self._here)
            self.capture.add(Datagram(source, target, payload))


async def connect(target: Place, capture: Writer | None) -> Wire:
    """A wire to `target`. RumplabError when this host has no route to it."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect((str(target[0]), target[1]))
        _, wire = await loop.create_datagram_endpoint(lambda: Wire(sock, target, capture), sock=sock)
    except OSError as error:
        sock.close()
        raise RumplabError(f"no route to {target[0]}: {error.strerror}; is its network up?") from error
    return wire


@contextlib.asynccontextmanager
async def linked(
    target: Place,
    key: bytes,
    timing: Timing,
    capture: Writer | None = None,
    trace: Callable[[str, Packet], None] | None = None,
) -> AsyncIterator[Link]:
    """Yields a link to `target`, which isn't opened yet. Closes its socket at the end."""
    wire = await connect(target, capture)
    wire.link = Link(key, wire.send, timing, random.Random(), trace, wire.linger)
    try:
        yield wire.link
    finally:
        wire.close()
