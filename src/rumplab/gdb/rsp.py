"""The framing of GDB's remote serial protocol (GDB manual, appendix "Remote Protocol", section "Overview")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

START, END, ESCAPE, INTERRUPT = ord("$"), ord("#"), ord("}"), 3
ESCAPED = frozenset(b"#$}*")
TOGGLE = 0x20
# The longest accepted packet, in bytes of escaped data. GDB observes the PacketSize that it is told.
PACKET_LIMIT = 0x4000
HEX = frozenset(b"0123456789abcdefABCDEF")


class Sign(Enum):
    """Something other than a valid packet. BROKEN is a packet with a wrong checksum, or one that is too long."""

    ACK = "+"
    NAK = "-"
    INTERRUPT = "^C"
    BROKEN = "broken"


@dataclass(frozen=True)
class Packet:
    """A packet's data, unescaped."""

    data: bytes


class Parser:
    """Parses a stream in pieces of any size. It keeps at most PACKET_LIMIT bytes between two calls."""

    def __init__(self) -> None:
        self._frame: bytearray | None = None
        self._tail: bytearray | None = None

    def feed(self, data: bytes) -> Iterator[Packet | Sign]:
        """Yields the packets and signs that `data` completes, in order."""
        at = 0
        while at < len(data):
            if self._frame is None:
                sign = self._outside(data[at])
                at += 1
                if sign is not None:
                    yield sign
            elif self._tail is not None and data[at] not in HEX:
                # No checksum: noise, behind which the next packet may begin with this byte.
                self._frame = self._tail = None
                yield Sign.BROKEN
            elif self._tail is not None:
                self._tail.append(data[at])
                at += 1
                if len(self._tail) == 2:
                    yield self._finish(self._frame, self._tail)
                    self._frame = self._tail = None
            else:
                at, broken = self._inside(self._frame, data, at)
                if broken:
                    self._frame = None
                    yield Sign.BROKEN

    def _outside(self, byte: int) -> Sign | None:
        if byte == START:
            self._frame = bytearray()
        elif byte == INTERRUPT:
            return Sign.INTERRUPT
        elif byte == ord("+"):
            return Sign.ACK
        elif byte == ord("-"):
            return Sign.NAK
        return None

    def _inside(self, frame: bytearray, data: bytes, at: int) -> tuple[int, bool]:
        """Adds the bytes from `at` on to `frame`. Returns (position after them, whether the frame is too long)."""
        end = data.find(END, at)
        start = data.rfind(START, at, end if end >= 0 else len(data))
        if start >= 0:
            # GDB has abandoned the frame and started another one.
            frame.clear()
            at = start + 1
        stop = len(data) if end < 0 else end
        frame += data[at : min(stop, at + PACKET_LIMIT + 1)]
        if len(frame) > PACKET_LIMIT:
            return stop, True
        if end >= 0:
            self._tail = bytearray()
            stop += 1
        return stop, False

    @staticmethod
    def _finish(frame: bytearray, tail: bytearray) -> Packet | Sign:
        return Packet(unescape(frame)) if int(tail, 16) == sum(frame) % 256 else Sign.BROKEN


def unescape(data: bytes | bytearray) -> bytes:
    """The binary data that `data` represents with escapes."""
    if ESCAPE not in data:
        return bytes(data)
    plain = bytearray()
    escaped = False
    for byte in data:
        if byte == ESCAPE and not escaped:
            escaped = True
        else:
            plain.append(byte ^ TOGGLE if escaped else byte)
            escaped = False
    return bytes(plain)


def escape(data: bytes) -> bytes:
    """`data` with the escapes that a packet needs."""
    if ESCAPED.isdisjoint(data):
        return data
    result = bytearray()
    for byte in data:
        result += bytes((ESCAPE, byte ^ TOGGLE)) if byte in ESCAPED else bytes((byte,))
    return bytes(result)


def frame(data: bytes) -> bytes:
    """The packet with the data `data`, which the caller has escaped if necessary."""
    return b"$" + data + b"#" + f"{sum(data) % 256:02x}".encode("ascii")
