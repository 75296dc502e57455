"""Finds the process that listens on a UNIX socket. The kernel tells it to a process that connects."""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

SECONDS = 1.0
# Constants of macOS's sys/un.h; Python's socket module lacks them.
SOL_LOCAL, LOCAL_PEERPID = 0, 2


def listening(path: Path) -> int | None:
    """Returns the id of the process that listens on the socket `path`; None if no process does, or if the kernel
    doesn't tell."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(SECONDS)
            line.connect(str(path))
            return pid_of(line)
    except OSError:
        return None


def pid_of(line: socket.socket) -> int | None:
    """Returns the id of the process at the other end of `line`, a connected UNIX socket."""
    if sys.platform == "darwin":
        return int(line.getsockopt(SOL_LOCAL, LOCAL_PEERPID)) or None
    found = struct.Struct("3i")
    pid: int = found.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, found.size))[0]
    return pid or None
