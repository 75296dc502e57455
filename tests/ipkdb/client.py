"""An IPKDB client that doesn't use the tool: it sends single datagrams, over UDP or in Ethernet frames."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

from ipkdb.kernel import NAMES, hmac_md5, seal

SECONDS = 1.0
TRIES = 20
Exchange = Callable[[bytes], "bytes | None"]


class Client:
    """One session. `exchange` sends a datagram and returns the next one that arrives, or None after a timeout."""

    def __init__(self, exchange: Exchange, key: bytes) -> None:
        self.exchange, self.key, self.seq = exchange, key, 0

    def open(self) -> bytes:
        self.seq = 0
        return self.ask(b"O" + os.urandom(4) + b"tester@test")

    def ask(self, data: bytes) -> bytes:
        """Send a request, up to TRIES times, and return the data of the reply. Check the reply's number and HMAC."""
        for _ in range(TRIES):
            reply = self.exchange(seal(self.seq, data, self.key))
            if reply is not None and struct.unpack_from(">I", reply)[0] == self.seq:
                (length,) = struct.unpack_from(">H", reply, 4)
                assert reply[6 + length :] == hmac_md5(self.key, reply[: 6 + length])
                self.seq += 1
                return reply[6 : 6 + length]
        raise AssertionError(f"no answer to {data[:16]!r}")

    def read(self, address: int, size: int) -> bytes:
        reply = self.ask(b"M" + struct.pack(">II", address, size))
        assert reply[:1] == b"p" and len(reply) == size + 1
        return reply[1:]

    def write(self, address: int, data: bytes) -> None:
        assert self.ask(b"N" + struct.pack(">II", address, len(data)) + data) == b"ok"

    def registers(self) -> dict[str, int]:
        return dict(zip(NAMES, struct.unpack("<16I", self.ask(b"R")[1:]), strict=True))


def by_udp(port: int) -> Exchange:
    """Return an Exchange with a port of 127.0.0.1."""
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.settimeout(SECONDS)
    wire.connect(("127.0.0.1", port))

    def exchange(datagram: bytes) -> bytes | None:
        try:
            wire.send(datagram)
            return wire.recv(4096)
        except OSError:
            return None

    return exchange
