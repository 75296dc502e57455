"""One record of a capture file, and the UDP datagram in it.

The link types that are read are raw IPv4, Ethernet, and those of loopback and of tcpdump's ``any``.
"""

from __future__ import annotations

from dataclasses import dataclass

from rumplab.errors import RumplabError
from rumplab.ipkdb import ipv4
from rumplab.ipkdb.ipv4 import Datagram

# Link types of tcpdump.org's registry. On some systems DLT_RAW is 12 or 14.
NULL, ETHERNET, RAW, LOOP, LINUX_COOKED, IPV4, LINUX_COOKED_2 = 0, 1, 101, 108, 113, 228, 276
RAWS = (RAW, IPV4, 12, 14)
# No network card sends a frame that long, so a longer record means that the file is damaged.
RECORD_LIMIT = 1 << 18
ETHERTYPE_IPV4 = 0x0800
# 802.1Q, and the types that are used for an outer tag.
ETHERTYPES_VLAN = (0x8100, 0x88A8, 0x9100)
BSD_IPV4 = 2
BYTE_ORDERS = ("little", "big")
# A shorter frame may be cut off before its Ethernet type.
SHORTEST_FRAME = 22


@dataclass(frozen=True)
class Record:
    """One record: its UNIX time in seconds, its link type, its frame, and whether the capture cut the frame off."""

    time: float
    link: int
    frame: bytes
    cut: bool


class Unread(Exception):
    """A frame that may hold a datagram is unreadable; the message tells why."""


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
