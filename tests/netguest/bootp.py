#!/usr/bin/env python3
"""Request an address with plain BOOTP (RFC 951) on an interface, as a kernel in IPKDB does, and print it.

The request is 300 bytes of UDP, broadcast to port 67 from address 0.0.0.0. Its vendor area is all zero, so that it
lacks the magic number of DHCP's options too. This program makes whole frames, so that the host's network stack doesn't
change them.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time

ETH_IP = 0x0800
UDP = 17
CLIENT, SERVER = 68, 67
XID = 0x12345678
REQUEST, REPLY = 1, 2
SIZE = 300
SECONDS = 10.0
AGAIN_SECONDS = 1.0
BROADCAST = b"\xff" * 6


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of `data`, whose size must be even."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(mac: bytes, seconds: int) -> bytes:
    """Return the frame of a request. `seconds` is the time since the client's first request."""
    bootp = struct.pack(">BBBBIHH16s6s", REQUEST, 1, len(mac), 0, XID, seconds, 0, bytes(16), mac).ljust(SIZE, b"\0")
    udp = struct.pack(">HHHH", CLIENT, SERVER, 8 + SIZE, 0) + bootp
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 255, UDP, 0, bytes(4), b"\xff" * 4)
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return BROADCAST + mac + ETH_IP.to_bytes(2, "big") + head + udp


def given(frame: bytes, mac: bytes) -> str | None:
    """Return the address in a BOOTP reply for `mac`, or None for any other frame."""
    if frame[12:14] != ETH_IP.to_bytes(2, "big") or frame[23:24] != bytes([UDP]):
        return None
    udp = frame[14 + (frame[14] & 15) * 4 :]
    bootp = udp[8:]
    if udp[:4] != struct.pack(">HH", SERVER, CLIENT) or bootp[:1] != bytes([REPLY]) or bootp[28:34] != mac:
        return None
    return str(ipaddress.IPv4Address(bootp[16:20]))


def ask(interface: str, mac: bytes) -> str | None:
    """Return the address that `mac` gets, or None after SECONDS."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_IP)) as sock:
        sock.bind((interface, 0))
        start = time.monotonic()
        while (waited := time.monotonic() - start) < SECONDS:
            sock.send(request(mac, int(waited)))
            again = time.monotonic() + AGAIN_SECONDS
            while (left := again - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    found = given(sock.recv(2048), mac)
                except TimeoutError:
                    break
                if found:
                    return found
    return None


if __name__ == "__main__":
    address = ask(sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")))
    print(address or "no address")
    sys.exit(address is None)
