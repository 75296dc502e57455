"""A serial line with transmission errors, for GDB's `target remote |`: python3 mangle.py SOCKET COUNTS

It inserts garbage before every packet, and damages every fourth packet, in both directions. At the end it writes to the
file COUNTS the numbers of packets that it damaged, to the guest and from the guest.
"""

from __future__ import annotations

import os
import select
import socket
import sys

EVERY = 4
GARBAGE = b"\x00~login: \xff"


class Direction:
    """One direction of the line. `damaged` counts the damaged packets."""

    def __init__(self) -> None:
        self.inside = False
        self.packets = 0
        self.damaged = 0

    def feed(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if byte == ord("$"):
                self.inside = True
                self.packets += 1
                out += GARBAGE
            elif byte == ord("#") and self.inside:
                self.inside = False
                if self.packets % EVERY == 0:
                    # An additional character makes the checksum wrong.
                    self.damaged += 1
                    out.append(ord("7"))
            out.append(byte)
        return bytes(out)


def main(path: str, counts: str) -> None:
    """Forward bytes until one side closes the connection."""
    to_guest, from_guest = Direction(), Direction()
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(path)
        while True:
            readable, _, _ = select.select([0, guest.fileno()], [], [])
            if 0 in readable:
                data = os.read(0, 4096)
                if not data:
                    break
                guest.sendall(to_guest.feed(data))
            if guest.fileno() in readable:
                data = guest.recv(4096)
                if not data:
                    break
                os.write(1, from_guest.feed(data))
    with open(counts, "w", encoding="ascii") as file:
        file.write(f"{to_guest.damaged} {from_guest.damaged}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
