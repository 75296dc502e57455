"""``rumplab ipkdb decode``: prints a capture of IPKDB as text and checks its HMACs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError
from rumplab.ipkdb import capture_record, packet, pcap
from rumplab.ipkdb.capture_record import Record
from rumplab.ipkdb.packet import WORD, BadMac, Malformed

REQUESTS = {"R": "read registers", "S": "step", "C": "continue", "X": "detach"}
SHOWN = 16

UNCHECKED, GOOD, BAD = "unchecked", "good", "bad"


@dataclass(frozen=True)
class Line:
    """One datagram. `time` is in seconds since the capture's first record. `hmac` is UNCHECKED, GOOD or BAD, or '' for
    a datagram that isn't a packet. `repeated` tells that the same source sent the same bytes before."""

    time: float
    source: str
    target: str
    seq: int | None
    hmac: str
    text: str
    repeated: bool

    def as_data(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Capture:
    """The IPKDB datagrams of a capture, and the number of unreadable records per reason."""

    lines: list[Line]
    unread: Counter[str]


def read(path: Path, key: bytes | None) -> Capture:
    """The IPKDB datagrams of a capture: those from or to port 1138, and others that have the form of a packet, since a
    port forward uses another port of the host. RumplabError when the file isn't a capture."""
    unread: Counter[str] = Counter()
    try:
        with path.open("rb") as stream:
            return Capture(list(lines(pcap.records(stream, str(path)), key, unread)), unread)
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror}") from error


def lines(records: Iterator[Record], key: bytes | None, unread: Counter[str]) -> Iterator[Line]:
    """Yields the IPKDB datagrams in `records`, and counts the unreadable records in `unread`."""
    start: float | None = None
    seen: set[tuple[object, object, bytes]] = set()
    for record in records:
        when = record.time
        start = when if start is None else start
        try:
            datagram = capture_record.datagram(record)
        except capture_record.Unread as error:
            unread[str(error)] += 1
            continue
        if datagram is None:
            continue
        seq, hmac, text = interpret(datagram.payload, key)
        if seq is None and packet.PORT not in (datagram.source[1], datagram.target[1]):
            continue
        identity = (datagram.source, datagram.target, datagram.payload)
        ends = [f"{host}:{port}" for host, port in (datagram.source, datagram.target)]
        yield Line(round(when - start, 6), ends[0], ends[1], seq, hmac, text, identity in seen)
        seen.add(identity)


def interpret(payload: bytes, key: bytes | None) -> tuple[int | None, str, str]:
    """(sequence number, state of the HMAC, description) of a datagram's payload. The number is None and the state ''
    when it isn't a packet."""
    hmac = UNCHECKED if key is None else GOOD
    try:
        found = packet.decode(payload, key)
    except BadMac:
        found, hmac = packet.decode(payload, None), BAD
    except Malformed as error:
        return None, "", f"not a packet: {error}"
    return found.seq, hmac, describe(found.data)


def as_text(found: list[Line]) -> list[str]:
    """The output for people: one line per datagram."""
    return [
        f"{line.time:10.6f}  {line.source} > {line.target}  {'-' if line.seq is None else line.seq}  {line.text}"
        + (f"  [HMAC {line.hmac}]" if line.hmac else "")
        + ("  [repeated]" if line.repeated else "")
        for line in found
    ]


def describe(data: bytes) -> str:
    """One line that describes the data of a request or reply. The data may be arbitrary, but not empty."""
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
    """The first SHOWN bytes in hexadecimal digits."""
    return data[:SHOWN].hex() + ("…" if len(data) > SHOWN else "")


def printable(data: bytes) -> str:
    """Text from the network, with '.' for each byte that isn't printable ASCII: a terminal obeys control characters."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
