"""Capture files in the classic pcap format (draft-ietf-opsawg-pcap).

Writes captures with link type raw IPv4. Reads also Ethernet and the link types of loopback and of tcpdump's ``any``.
rumplab.ipkdb.pcapng reads pcapng.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rumplab.errors import RumplabError
from rumplab.ipkdb import ipv4
from rumplab.ipkdb.ipv4 import Datagram

MAGIC, MAGIC_NANO = 0xA1B2C3D4, 0xA1B23C4D
MAGIC_NG = b"\x0a\x0d\x0d\x0a"
# Maps a file's first four bytes to its byte order and the number of time units per second.
FORMATS = {
    struct.pack(f"{order}I", magic): (order, unit)
    for order in "<>"
    for magic, unit in ((MAGIC, 1_000_000), (MAGIC_NANO, 1_000_000_000))
}
# Link types of tcpdump.org's registry. On some systems DLT_RAW is 12 or 14.
NULL, ETHERNET, RAW, LOOP, LINUX_COOKED, IPV4, LINUX_COOKED_2 = 0, 1, 101, 108, 113, 228, 276
RAWS = (RAW, IPV4, 12, 14)
FILE_HEADER, RECORD_HEADER = "IHHiIII", "IIII"
SNAP_LENGTH = 65535
# No network card sends a frame that long, so a longer record means that the file is damaged.
RECORD_LIMIT = 1 << 18
ETHERTYPE_IPV4 = 0x0800
# 802.1Q, and the types that are used for an outer tag.
ETHERTYPES_VLAN = (0x8100, 0x88A8, 0x9100)
BSD_IPV4 = 2
BYTE_ORDERS = ("little", "big")
# A shorter frame may be cut off before its Ethernet type.
SHORTEST_FRAME = 22


class Writer:
    """Writes datagrams to a new capture file. Writes are unbuffered, so a killed process loses no datagram."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise RumplabError(f"cannot write {path}: {error.strerror}; choose another file") from error
        self._clock = clock
        self._count = 0
        self._file.write(struct.pack(f"<{FILE_HEADER}", MAGIC, 2, 4, 0, 0, SNAP_LENGTH, RAW))

    def add(self, datagram: Datagram) -> None:
        data = ipv4.encode(datagram, self._count)
        self._count += 1
        micros = round(self._clock() * 1_000_000)
        header = struct.pack(f"<{RECORD_HEADER}", *divmod(micros, 1_000_000), len(data), len(data))
        self._file.write(header + data)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Record:
    """One record: its UNIX time in seconds, its link type, its frame, and whether the capture cut the frame off."""

    time: float
    link: int
    frame: bytes
    cut: bool


class Unread(Exception):
    """A frame that may hold a datagram is unreadable; the message tells why."""


def records(stream: BinaryIO, name: str) -> Iterator[Record]:
    """The records of the capture file `name`. RumplabError when it isn't a capture, or is damaged.

    An incomplete last record is ignored: a capture that is still being written has one.
    """
    head = stream.read(struct.calcsize(FILE_HEADER))
    if head[:4] == MAGIC_NG:
        # Imported only here, since few captures are pcapng.
        from rumplab.ipkdb import pcapng

        yield from pcapng.records(head, stream, name)
        return
    if head[:4] not in FORMATS or len(head) < struct.calcsize(FILE_HEADER):
        raise RumplabError(f"{name} is not a pcap file; give one that --pcap or tcpdump -w wrote")
    order, unit = FORMATS[head[:4]]
    link = struct.unpack(f"{order}{FILE_HEADER}", head)[6] & 0xFFFF
    while len(header := stream.read(struct.calcsize(RECORD_HEADER))) == struct.calcsize(RECORD_HEADER):
        seconds, fraction, size, whole = struct.unpack(f"{order}{RECORD_HEADER}", header)
        if size > RECORD_LIMIT:
            raise damaged(name, size)
        data = stream.read(size)
        if len(data) < size:
            return
        yield Record(seconds + fraction / unit, link, data, size < whole)


def damaged(name: str, size: int) -> RumplabError:
    return RumplabError(f"{name} is damaged: a record of {size} bytes; capture it again")


def datagram(record: Record) -> Datagram | None:
    """The UDP datagram in a record; None when there is none. Unread when the record can't be read."""
    packet = packet_of(record.link, record.frame)
    if packet is None:
        if record.cut and len(record.frame) < SHORTEST_FRAME:
            raise Unread("cut off when it was captured; capture whole packets (tcpdump -s 0)")
        return None
    try:
        return ipv4.decode(packet)
    except ipv4.Incomplete as error:
        if str(error) == ipv4.CUT:
            raise Unread("cut off when it was captured; capture whole packets (tcpdump -s 0)") from None
        raise Unread("a fragment, and fragments aren't put together") from None
    except ipv4.NotUdp:
        return None


def packet_of(link: int, frame: bytes) -> bytes | None:
    """The IPv4 packet in a frame of link type `link`; None when there is none. Unread for an unknown link type."""
    if link in RAWS:
        return frame
    if link == ETHERNET:
        return behind(frame[12:14], frame[14:])
    if link == LINUX_COOKED:
        return behind(frame[14:16], frame[16:])
    if link == LINUX_COOKED_2:
        return behind(frame[:2], frame[20:])
    if link in (NULL, LOOP):
        # NULL has the address family in the capturing host's byte order, LOOP in network byte order.
        families = {int.from_bytes(frame[:4], order) for order in BYTE_ORDERS}  # type: ignore[arg-type]
        return frame[4:] if BSD_IPV4 in families else None
    raise Unread(f"of link type {link}, which isn't read; capture on an Ethernet or loopback interface, or on 'any'")


def behind(kind: bytes, rest: bytes) -> bytes | None:
    """The IPv4 packet after the Ethernet type `kind`; skips VLAN tags. None for another type."""
    while int.from_bytes(kind, "big") in ETHERTYPES_VLAN:
        kind, rest = rest[2:4], rest[4:]
    return rest if int.from_bytes(kind, "big") == ETHERTYPE_IPV4 else None
