"""Which process listens on a UNIX socket, as the kernel tells who connects to it."""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

SECONDS = 1.0
# Of macOS's sys/un.h, which Python doesn't name.
SOL_LOCAL, LOCAL_PEERPID = 0, 2


def listening(path: Path) -> int | None:
    """The process that listens on the socket `path`; None where nobody does, or the system doesn't say."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(SECONDS)
            line.connect(str(path))
            return pid_of(line)
    except OSError:
        return None


def pid_of(line: socket.socket) -> int | None:
    """The process at the other end of `line`."""
    if sys.platform == "darwin":
        return int(line.getsockopt(SOL_LOCAL, LOCAL_PEERPID)) or None
    found = struct.Struct("3i")
    pid: int = found.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, found.size))[0]
    return pid or None
