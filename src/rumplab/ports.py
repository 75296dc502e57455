"""TCP ports on 127.0.0.1 for debug stubs."""

from __future__ import annotations

import socket
from collections.abc import Collection

LAST_PORT = 65535


def free(avoid: Collection[int] = ()) -> int:
    """A port on 127.0.0.1 that nobody listens on just now and that is not in `avoid`."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in avoid:
            return port


def taken(port: int) -> bool:
    """Whether somebody listens on 127.0.0.1:`port`."""
    with socket.socket() as sock:
        # As QEMU does: a connection that lingers from an earlier session doesn't count.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False
