"""IPKDB's packet, the payload of one UDP datagram. docs/protocols/ipkdb.md has a table of it.

The fields are, in this order: sequence number (32 bits) and length of the data (16 bits), both big-endian; the data,
whose first byte is the command; HMAC-MD5 (RFC 2104) over all of these. Requests have an upper-case letter as command,
replies a lower-case one.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

PORT = 1138
HEADER = struct.Struct(">IH")
WORD = struct.Struct(">I")
MAC_SIZE = 16
# NetBSD stores a command and a reply in 512 bytes each and doesn't check the length, so both must be shorter.
BUFFER = 512
# The most bytes that one request reads or writes: the limit of NetBSD's own GDB.
DATA_LIMIT = 388
# Longer datagrams are ignored; NetBSD's are never longer than one Ethernet frame.
DATAGRAM_LIMIT = 2048

OPEN, REGISTERS, SET_REGISTERS, PEEK, POKE = b"O", b"R", b"W", b"M", b"N"
STEP, CONTINUE, DETACH = b"S", b"C", b"X"
STOPPED, DONE, DATA, ERROR = b"s", b"ok", b"p", b"e"


class Malformed(ValueError):
    """The datagram isn't a packet."""


class BadMac(ValueError):
    """The packet's HMAC doesn't match the key: the sender has another key, or the network damaged the packet."""


@dataclass(frozen=True)
class Packet:
    """`seq` has 32 bits; `data` is the command and its arguments, at least one byte."""

    seq: int
    data: bytes


def digest(message: bytes, key: bytes) -> bytes:
    """The 16 bytes that authenticate `message`."""
    return hmac.digest(key, message, "md5")


def encode(packet: Packet, key: bytes) -> bytes:
    """The datagram that carries `packet`."""
    body = HEADER.pack(packet.seq, len(packet.data)) + packet.data
    return body + digest(body, key)


def decode(datagram: bytes, key: bytes | None) -> Packet:
    """The packet in `datagram`. Malformed or BadMac when it is invalid; without a key, the HMAC isn't checked.

    Bytes after the HMAC are ignored, as NetBSD does.
    """
    if len(datagram) < HEADER.size + MAC_SIZE + 1:
        raise Malformed(f"{len(datagram)} bytes are too few")
    seq, length = HEADER.unpack_from(datagram)
    end = HEADER.size + length
    if not length or end + MAC_SIZE > len(datagram):
        raise Malformed(f"a length of {length} doesn't fit the datagram's {len(datagram)} bytes")
    if key is not None and not hmac.compare_digest(digest(datagram[:end], key), datagram[end : end + MAC_SIZE]):
        raise BadMac("the HMAC doesn't fit the key")
    return Packet(seq, datagram[HEADER.size : end])


def open_request(identity: int, who: str) -> bytes:
    """The data of the request that opens a session; `identity` has 32 bits and isn't 0."""
    return OPEN + WORD.pack(identity) + who.encode("ascii", "replace")


def peek(address: int, size: int) -> bytes:
    return PEEK + WORD.pack(address) + WORD.pack(size)


def poke(address: int, data: bytes) -> bytes:
    return POKE + WORD.pack(address) + WORD.pack(len(data)) + data
