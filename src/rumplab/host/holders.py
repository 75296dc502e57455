"""Finds the process that has a port or a file, from Linux's /proc. On other systems it finds none.

A user's own processes are visible here; root sees all.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PROC = Path("/proc")
ESTABLISHED, LISTEN = "01", "0A"
SOCKET = re.compile(r"socket:\[(\d+)\]")
# Constants and structures of Linux's sock_diag(7), netlink(7) and linux/unix_diag.h.
SOCK_DIAG, BY_FAMILY, DUMP, DONE, ERROR = 4, 20, 0x301, 3, 2
HEADER, UNIX_QUESTION, UNIX_ANSWER = struct.Struct("=IHHII"), struct.Struct("=BBHIIIII"), struct.Struct("=BBBBIII")
CONNECTED, ITS_NAME, ITS_PEER = 1 << 1, 1 << 0, 1 << 2
ATTRIBUTE, NUMBER, NAME, PEER = struct.Struct("=HH"), struct.Struct("=I"), 0, 2
DIAG_SECONDS, DIAG_BYTES = 2.0, 1 << 16


def of_port(protocol: str, port: int, proc: Path = PROC) -> str | None:
    """Returns the process that has `port` of `protocol`, tcp (a listening socket) or udp, as ``NAME, pid N``."""
    inodes = {inode for name in (protocol, f"{protocol}6") for inode in _sockets(proc / "net" / name, port)}
    return _of_inodes(inodes, proc)


def of_peer(host: str, port: int, proc: Path = PROC) -> str | None:
    """Returns another process with a UDP socket that is connected to `host`, an IPv4 address, as ``NAME, pid N``."""
    # The table prints the four bytes of an address as one number in the host's byte order.
    number = int.from_bytes(IPv4Address(host).packed, sys.byteorder)
    peer = f"{number:08X}:{port:04X}"
    inodes = {words[9] for words in _rows(proc / "net" / "udp") if words[2] == peer}
    return _of_inodes(inodes, proc)


def of_connection(port: int, proc: Path = PROC) -> str | None:
    """Returns the process whose end of an established TCP connection has the local port `port`, as ``NAME, pid N``."""
    rows = _rows(proc / "net" / "tcp")
    inodes = {words[9] for words in rows if words[3] == ESTABLISHED and _port(words[1]) == port}
    return _of_inodes(inodes, proc)


def of_client(path: str, proc: Path = PROC) -> str | None:
    """Returns the process that is connected to the UNIX socket at `path`, as ``NAME, pid N``."""
    if sys.platform != "linux":
        return None
    wanted = os.fsencode(path)
    try:
        inodes = {str(peer) for name, peer in connections() if name == wanted}
    except OSError:
        return None
    return _of_inodes(inodes, proc)


def connections() -> Iterator[tuple[bytes, int]]:
    """Yields (name, peer's inode) of each connected UNIX socket that has a name. OSError if the kernel refuses."""
    question = UNIX_QUESTION.pack(socket.AF_UNIX, 0, 0, CONNECTED, 0, ITS_NAME | ITS_PEER, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as line:
        line.settimeout(DIAG_SECONDS)
        line.send(HEADER.pack(HEADER.size + len(question), BY_FAMILY, DUMP, 0, 0) + question)
        while True:
            data = line.recv(DIAG_BYTES)
            while data:
                length, kind, *_ = HEADER.unpack_from(data)
                if kind == ERROR:
                    raise OSError("the kernel refuses to list the sockets")
                if kind == DONE:
                    return
                found = attributes(data[HEADER.size + UNIX_ANSWER.size : length])
                if NAME in found and PEER in found:
                    yield found[NAME].rstrip(b"\0"), NUMBER.unpack(found[PEER])[0]
                data = data[aligned(length) :]


def attributes(data: bytes) -> dict[int, bytes]:
    """Parses netlink attributes; returns their values by type."""
    found = {}
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        found[kind] = data[ATTRIBUTE.size : length]
        data = data[aligned(max(length, ATTRIBUTE.size)) :]
    return found


def aligned(length: int) -> int:
    """Rounds `length` up to a multiple of 4, as netlink pads messages and attributes."""
    return (length + 3) & ~3


def of_file(path: str, proc: Path = PROC) -> str | None:
    """Returns another process that has the file at `path` open, as ``NAME, pid N``."""
    try:
        wanted = os.stat(path)
    except (OSError, ValueError):
        # os.stat raises ValueError for a path with a NUL byte.
        return None

    def matches(descriptor: Path) -> bool:
        return os.path.samestat(descriptor.stat(), wanted)

    return _first(matches, proc)


def each(look: Callable[[Path], T], proc: Path = PROC) -> Iterator[tuple[int, T]]:
    """Calls `look` with ``/proc/PID/fd/N`` for each open file of every other process. Yields (pid, result) where the
    result is true.

    Processes end and close files meanwhile, so a file for which `look` raises OSError is skipped.
    """
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for descriptor in _descriptors(entry):
            try:
                found = look(descriptor)
            except OSError:
                continue
            if found:
                yield int(entry.name), found


def command(pid: int, proc: Path = PROC) -> str:
    """Returns the name of the program that the process runs; "a process" if it has ended."""
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process"


def _sockets(table: Path, port: int) -> Iterator[str]:
    """Yields the inodes of the sockets with local port `port` in `table`, a file of /proc/net."""
    for words in _rows(table):
        local, state, inode = words[1], words[3], words[9]
        if _port(local) == port and (state == LISTEN or table.name.startswith("udp")):
            yield inode


def _port(address: str) -> int:
    """Returns the port of an ``ADDRESS:PORT`` in a table; both are hexadecimal."""
    return int(address.rpartition(":")[2], 16)


def _rows(table: Path) -> Iterator[list[str]]:
    """Yields the columns of each socket in `table`, a file of /proc/net."""
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    yield from map(str.split, lines)


def _of_inodes(inodes: set[str], proc: Path) -> str | None:
    """Returns the process that has one of these sockets."""
    if not inodes:
        return None

    def matches(descriptor: Path) -> bool:
        found = SOCKET.fullmatch(os.readlink(descriptor))
        return found is not None and found[1] in inodes

    return _first(matches, proc)


def _first(matches: Callable[[Path], bool], proc: Path) -> str | None:
    for pid, _ in each(matches, proc):
        return f"{command(pid, proc)}, pid {pid}"
    return None


def _descriptors(entry: Path) -> list[Path]:
    try:
        return list((entry / "fd").iterdir())
    except OSError:
        return []
