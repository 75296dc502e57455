"""A packet in words, for `--trace` and `ipkdb decode`."""

from __future__ import annotations

from rumplab.ipkdb.packet import WORD

REQUESTS = {"R": "read registers", "S": "step", "C": "continue", "X": "detach"}
SHOWN = 16


def describe(data: bytes) -> str:
    """One line about the data of a packet, request or reply; anything may be in it."""
    command, rest = chr(data[0]), data[1:]
    if command in REQUESTS and not rest:
        return f"{command} {REQUESTS[command]}"
    if command == "O" and len(rest) >= WORD.size:
        (identity,) = WORD.unpack_from(rest)
        return f"O open, id {identity:#x}, {printable(rest[WORD.size :])}"
    if command in "MN" and len(rest) >= 2 * WORD.size:
        address, size = (WORD.unpack_from(rest, offset)[0] for offset in (0, WORD.size))
        if command == "M":
            return f"M read {size} bytes at {address:#x}"
        return f"N write {size} bytes at {address:#x}: {shown(rest[2 * WORD.size :])}"
    if command == "W":
        return f"W write registers, {len(rest)} bytes"
    if data == b"s":
        return "s stopped"
    if data == b"ok":
        return "ok done"
    if command == "p":
        return f"p {len(rest)} bytes: {shown(rest)}"
    if command == "e":
        return f"e error: {printable(rest)}"
    return f"? {shown(data)}"


def shown(data: bytes) -> str:
    """The first bytes in hexadecimal digits."""
    return data[:SHOWN].hex() + ("…" if len(data) > SHOWN else "")


def printable(data: bytes) -> str:
    """Text that came over the network, with nothing in it that a terminal would obey."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
