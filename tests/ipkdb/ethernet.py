"""An Ethernet segment of two hosts: this program and a guest in QEMU. UDP datagrams carry the frames.

Formats: Ethernet II, ARP (RFC 826), IPv4 (RFC 791), UDP (RFC 768), BOOTP (RFC 951).
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType

HOST, GUEST = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
HOST_MAC, GUEST_MAC, ALL = b"\x52\0\0\0\0\1", b"\x52\x54\0\x12\x34\x56", b"\xff" * 6
PORT = 1138
MORE = 0x2000
SECONDS = 1.0


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f">{len(data + data[: len(data) % 2]) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ether(kind: int, data: bytes, target: bytes = GUEST_MAC, source: bytes = HOST_MAC) -> bytes:
    return (target + source + struct.pack(">H", kind) + data).ljust(60, b"\0")


def arp(wanted: bytes) -> bytes:
    """Return an ARP request for the address `wanted`, from this host."""
    return ether(0x0806, struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + HOST_MAC + HOST + bytes(6) + wanted, ALL)


def udp(data: bytes, source: int, target: int = PORT, sender: bytes = HOST, receiver: bytes = GUEST) -> bytes:
    """Return a UDP datagram: header and data."""
    size = 8 + len(data)
    pseudo = sender + receiver + struct.pack(">HH", 17, size)
    plain = struct.pack(">HHHH", source, target, size, 0) + data
    return plain[:6] + struct.pack(">H", checksum(pseudo + plain)) + plain[8:]


def ip(data: bytes, number: int = 1, place: int = 0, sender: bytes = HOST, receiver: bytes = GUEST) -> bytes:
    """Return a frame with an IPv4 packet. `place` is the fragment offset in 8 bytes, plus MORE if more follow."""
    plain = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), number, place, 64, 17, 0) + sender + receiver
    head = plain[:10] + struct.pack(">H", checksum(plain)) + plain[12:]
    return ether(0x0800, head + data)


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram that the guest sent. The checksums of its frame are correct."""

    frame: bytes
    source: int
    target: int
    data: bytes


def datagram(frame: bytes) -> Datagram | None:
    """Return the UDP datagram in the frame, or None. Raise AssertionError if a checksum or length is wrong."""
    if frame[12:14] != b"\x08\0" or frame[23] != 17:
        return None
    head, size = frame[14:34], struct.unpack_from(">H", frame, 16)[0]
    body = frame[34 : 14 + size]
    assert checksum(head) == 0 and head[0] == 0x45
    assert checksum(head[12:20] + struct.pack(">HH", 17, len(body)) + body) == 0
    source, target, length, _ = struct.unpack_from(">HHHH", body)
    assert length == len(body)
    return Datagram(frame, source, target, body[8:])


class Segment:
    """This host's end of the segment."""

    def __init__(self) -> None:
        self.wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.wire.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            self.guest = other.getsockname()
        self.wire.settimeout(SECONDS)

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wire.close()

    def netdev(self) -> str:
        """Return QEMU's option for the network backend `n`, which is the other end."""
        here, there = (f"127.0.0.1:{port}" for port in (self.wire.getsockname()[1], self.guest[1]))
        return f"socket,id=n,udp={here},localaddr={there}"

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.wire.sendto(frame, self.guest)

    def receive(self, seconds: float = SECONDS) -> bytes | None:
        """Return the next frame, or None after `seconds`."""
        self.wire.settimeout(seconds)
        try:
            return self.wire.recv(4096)
        except TimeoutError:
            return None

    def udp(self, seconds: float = SECONDS) -> Datagram | None:
        """Return the next UDP datagram from the guest, or None after `seconds` without a frame."""
        while (frame := self.receive(seconds)) is not None:
            if (found := datagram(frame)) is not None:
                return found
        return None

    def exchange(self, data: bytes) -> bytes | None:
        """Send `data` from port 4000, and return the reply: the Exchange of a Client."""
        self.send(ip(udp(data, 4000)))
        while (found := self.udp()) is not None:
            if (found.source, found.target) == (PORT, 4000):
                return found.data
        return None


class Relay:
    """Forward datagrams from a UDP port of this host to the guest and back, and drop each with probability `lose`."""

    def __init__(self, segment: Segment, lose: float, seed: int) -> None:
        self.segment, self.lose, self.random = segment, lose, random.Random(seed)
        self.host = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.host.bind(("127.0.0.1", 0))
        self.port = self.host.getsockname()[1]
        self.peer: tuple[str, int] | None = None
        self.lost = 0
        self._over = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._outward, self._inward)]

    def __enter__(self) -> Relay:
        self.host.settimeout(0.2)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for thread in self._threads:
            thread.join(5)
        self.host.close()

    def _loses(self) -> bool:
        lost = self.random.random() < self.lose
        self.lost += lost
        return lost

    def _outward(self) -> None:
        while not self._over:
            try:
                data, self.peer = self.host.recvfrom(4096)
            except TimeoutError:
                continue
            if not self._loses():
                self.segment.send(ip(udp(data, 4000)))

    def _inward(self) -> None:
        while not self._over:
            found = self.segment.udp(0.2)
            if found is not None and self.peer is not None and not self._loses():
                self.host.sendto(found.data, self.peer)
