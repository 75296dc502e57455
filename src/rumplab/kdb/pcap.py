"""Capture files in the classic pcap format (draft-ietf-opsawg-pcap): written as raw IPv4, read from Ethernet too."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rumplab.errors import RumplabError
from rumplab.kdb import ipv4
from rumplab.kdb.ipv4 import Datagram

MAGIC, MAGIC_NANO = 0xA1B2C3D4, 0xA1B23C4D
MAGIC_NG = b"\x0a\x0d\x0d\x0a"
# By a file's first bytes: its byte order, and how many of a record's fractions make a second.
FORMATS = {
    struct.pack(f"{order}I", magic): (order, unit)
    for order in "<>"
    for magic, unit in ((MAGIC, 1_000_000), (MAGIC_NANO, 1_000_000_000))
}
ETHERNET, RAW, LINUX_COOKED, IPV4 = 1, 101, 113, 228
FILE_HEADER, RECORD_HEADER = "IHHiIII", "IIII"
SNAP_LENGTH = 65535
# Longer records aren't from a network card: the file is damaged.
RECORD_LIMIT = 1 << 18
ETHERTYPE_IPV4, ETHERTYPE_VLAN = 0x0800, 0x8100


class Writer:
    """Appends datagrams to a capture; each is on disk before `add` returns."""

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


def records(stream: BinaryIO, name: str) -> Iterator[tuple[float, int, bytes]]:
    """(UNIX time, link type, frame) of each record; RumplabError names the file if it is something else.

    A capture that ends within a record, as one does while it is being written, just ends there.
    """
    head = stream.read(struct.calcsize(FILE_HEADER))
    if head[:4] == MAGIC_NG:
        raise RumplabError(f"{name} is pcapng; convert it first: tshark -F pcap -r {name} -w classic.pcap")
    if head[:4] not in FORMATS or len(head) < struct.calcsize(FILE_HEADER):
        raise RumplabError(f"{name} is not a pcap file; give one that --pcap or tcpdump -w wrote")
    order, unit = FORMATS[head[:4]]
    link = struct.unpack(f"{order}{FILE_HEADER}", head)[6] & 0xFFFF
    while len(header := stream.read(struct.calcsize(RECORD_HEADER))) == struct.calcsize(RECORD_HEADER):
        seconds, fraction, size, _ = struct.unpack(f"{order}{RECORD_HEADER}", header)
        if size > RECORD_LIMIT:
            raise RumplabError(f"{name} is damaged: a record of {size} bytes; capture it again")
        data = stream.read(size)
        if len(data) < size:
            return
        yield seconds + fraction / unit, link, data


def datagram(link: int, frame: bytes) -> Datagram | None:
    """The UDP datagram in a frame of link type `link`; None for everything else."""
    packet: bytes | None = None
    if link in (RAW, IPV4):
        packet = frame
    elif link == ETHERNET:
        packet = behind(frame, 12)
    elif link == LINUX_COOKED:
        packet = behind(frame, 14)
    if packet is None:
        return None
    try:
        return ipv4.decode(packet)
    except ipv4.NotUdp:
        return None


def behind(frame: bytes, at: int) -> bytes | None:
    """What follows the Ethernet type at `at`, if that is IPv4, with a VLAN's tag or without."""
    kind = int.from_bytes(frame[at : at + 2], "big")
    if kind == ETHERTYPE_VLAN:
        at += 4
        kind = int.from_bytes(frame[at : at + 2], "big")
    return frame[at + 2 :] if kind == ETHERTYPE_IPV4 else None
