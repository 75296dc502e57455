"""Encodes and decodes UDP over IPv4 (RFC 768, RFC 791), for captures."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

UDP = 17
IP_HEADER = struct.Struct(">BBHHHBBH4s4s")
UDP_HEADER = struct.Struct(">HHHH")
TTL = 64
CUT = "cut off"
MORE_FRAGMENTS, OFFSET = 0x2000, 0x1FFF


class NotUdp(ValueError):
    """The bytes aren't a whole UDP datagram in IPv4."""


class Incomplete(NotUdp):
    """The bytes are the beginning, or a fragment, of a UDP datagram."""


@dataclass(frozen=True)
class Datagram:
    """One UDP datagram."""

    source: tuple[IPv4Address, int]
    target: tuple[IPv4Address, int]
    payload: bytes


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def encode(datagram: Datagram, identification: int) -> bytes:
    """The IPv4 packet that carries `datagram`, with both checksums."""
    (source, source_port), (target, target_port) = datagram.source, datagram.target
    length = UDP_HEADER.size + len(datagram.payload)
    pseudo = source.packed + target.packed + struct.pack(">BBH", 0, UDP, length)
    udp = UDP_HEADER.pack(source_port, target_port, length, 0)
    # In UDP, 0 means "no checksum", so RFC 768 replaces a checksum of 0 by 0xFFFF.
    total = checksum(pseudo + udp + datagram.payload) or 0xFFFF
    udp = UDP_HEADER.pack(source_port, target_port, length, total)
    fields = (0x45, 0, IP_HEADER.size + length, identification & 0xFFFF, 0, TTL, UDP)
    header = IP_HEADER.pack(*fields, 0, source.packed, target.packed)
    header = IP_HEADER.pack(*fields, checksum(header), source.packed, target.packed)
    return header + udp + datagram.payload


def decode(data: bytes) -> Datagram:
    """The datagram in an IPv4 packet. Incomplete for a part of one, NotUdp for other data."""
    if not data or data[0] >> 4 != 4:
        raise NotUdp("not IPv4")
    if len(data) < IP_HEADER.size:
        raise Incomplete(CUT)
    _, _, length, _, fragment, _, protocol, _, source, target = IP_HEADER.unpack_from(data)
    start = (data[0] & 15) * 4
    if protocol != UDP:
        raise NotUdp("not UDP")
    if fragment & (MORE_FRAGMENTS | OFFSET):
        raise Incomplete("a fragment")
    if start < IP_HEADER.size or length < start + UDP_HEADER.size:
        raise NotUdp("a wrong length")
    if length > len(data):
        raise Incomplete(CUT)
    source_port, target_port, size, _ = UDP_HEADER.unpack_from(data, start)
    if not UDP_HEADER.size <= size <= length - start:
        raise NotUdp("a wrong length")
    payload = data[start + UDP_HEADER.size : start + size]
    return Datagram((IPv4Address(source), source_port), (IPv4Address(target), target_port), payload)
