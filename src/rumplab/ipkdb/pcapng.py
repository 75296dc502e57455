"""Reads captures in the newer format, pcapng (draft-ietf-opsawg-pcapng), which Wireshark's tools write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from rumplab.errors import RumplabError
from rumplab.ipkdb.capture_record import RECORD_LIMIT, Record, damaged

ORDERS = {struct.pack(f"{order}I", 0x1A2B3C4D): order for order in "<>"}
SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, PACKET = 0x0A0D0D0A, 1, 2, 3, 6
BLOCK_HEADER = 8
# The shortest block: its type, and its length twice.
SHORTEST = 12
END, RESOLUTION, OFFSET = 0, 9, 14
MICROSECONDS = 6
# Larger than a record, because a packet's block also has options.
BLOCK_LIMIT = 4 * RECORD_LIMIT


@dataclass(frozen=True)
class Interface:
    """The content of an interface's block: its link type, the longest frame that is captured whole (0: any length), the
    number of time units per second, and the UNIX time in seconds at which the units start."""

    link: int
    snap: int
    unit: int
    offset: int


def records(start: bytes, stream: BinaryIO, name: str) -> Iterator[Record]:
    """The records of a capture whose first bytes are `start`; `stream` has the rest. See rumplab.ipkdb.pcap.records."""
    order, interfaces = "<", list[Interface]()
    head = start
    while len(head := head + stream.read(max(SHORTEST - len(head), 0))) >= SHORTEST:
        if int.from_bytes(head[:4], "big") == SECTION:
            if head[8:12] not in ORDERS:
                raise RumplabError(f"{name} is damaged: a section without its byte order; capture it again")
            order, interfaces = ORDERS[head[8:12]], []
        kind, length = struct.unpack_from(f"{order}II", head)
        if length < SHORTEST or length % 4 or length > BLOCK_LIMIT:
            raise damaged(name, length)
        block = head[:length] + stream.read(max(length - len(head), 0))
        if len(block) < length:
            return
        head, body = head[length:], block[BLOCK_HEADER : length - 4]
        try:
            if kind == INTERFACE:
                interfaces.append(interface(order, body))
            found = packet(order, kind, body, interfaces)
        except (struct.error, IndexError) as error:
            raise RumplabError(f"{name} is damaged: {error}; capture it again") from error
        if found is not None:
            yield found


def interface(order: str, body: bytes) -> Interface:
    link, _, snap = struct.unpack_from(f"{order}HHI", body)
    unit, offset, at = 10**MICROSECONDS, 0, 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == END:
            break
        if code == RESOLUTION and value:
            # The highest bit tells that the rest is an exponent of 2; else it is an exponent of 10.
            unit = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == OFFSET and length == 8:
            offset = struct.unpack(f"{order}q", value)[0]
        at += 4 + length + -length % 4
    return Interface(link, snap, unit, offset)


def packet(order: str, kind: int, body: bytes, interfaces: list[Interface]) -> Record | None:
    """The record in a block of `kind`; None when the block isn't a packet."""
    if kind == SIMPLE_PACKET:
        whole = struct.unpack_from(f"{order}I", body)[0]
        size = min(whole, interfaces[0].snap or whole, len(body) - 4)
        return Record(0.0, interfaces[0].link, body[4 : 4 + size], size < whole)
    if kind not in (PACKET, OLD_PACKET):
        return None
    number, high, low, size, whole = struct.unpack_from(f"{order}IIIII", body)
    if kind == OLD_PACKET:
        number = struct.unpack_from(f"{order}H", body)[0]
    one = interfaces[number]
    if size > len(body) - 20:
        raise IndexError("a packet that is longer than its block")
    when = ((high << 32) + low) / one.unit + one.offset
    return Record(when, one.link, body[20 : 20 + size], size < whole)
