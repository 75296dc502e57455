"""Capture files in the classic pcap format (draft-ietf-opsawg-pcap).

Writes captures with link type raw IPv4. `records` reads pcapng as well, by rumplab.ipkdb.pcapng.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rumplab.errors import RumplabError
from rumplab.ipkdb import ipv4
from rumplab.ipkdb.capture_record import RAW, RECORD_LIMIT, Record, damaged
from rumplab.ipkdb.ipv4 import Datagram

MAGIC, MAGIC_NANO = 0xA1B2C3D4, 0xA1B23C4D
MAGIC_NG = b"\x0a\x0d\x0d\x0a"
# Maps a file's first four bytes to its byte order and the number of time units per second.
FORMATS = {
    struct.pack(f"{order}I", magic): (order, unit)
    for order in "<>"
    for magic, unit in ((MAGIC, 1_000_000), (MAGIC_NANO, 1_000_000_000))
}
FILE_HEADER, RECORD_HEADER = "IHHiIII", "IIII"
SNAP_LENGTH = 65535


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


def records(stream: BinaryIO, name: str) -> Iterator[Record]:
    """The records of the capture file `name`. RumplabError when it isn't a capture, or is damaged.

    An incomplete last record is ignored: a capture that is still being written has one.
    """
    head = stream.read(struct.calcsize(FILE_HEADER))
    if head[:4] == MAGIC_NG:
        # Imported only here, since few captures are pcapng, and a session only writes.
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
