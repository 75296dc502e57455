"""Ports on 127.0.0.1, for debug stubs and for what leads to guests."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Collection

from rumplab.host import holders

LOOPBACK = "127.0.0.1"
FIRST_UNPRIVILEGED = 1024
LAST_PORT = 65535
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def warn_of_stub(port: int) -> None:
    """Says on standard error what a debug stub on a TCP port means."""
    print(
        f"rumplab: the debug stub on {LOOPBACK}:{port} is open to every user of this host: who attaches has the guest"
        " and QEMU's monitor, and with it your files; without --gdb-port only you reach it. All that is left between"
        " them and you is QEMU's sandbox, which runs no program; leave --gdb-port out on a host that you share",
        file=sys.stderr,
    )


def free(avoid: Collection[int] = (), protocol: str = "tcp") -> int:
    """A port of `protocol`, tcp or udp, on 127.0.0.1 that nobody has just now and that is not in `avoid`."""
    while True:
        with socket.socket(type=KINDS[protocol]) as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in avoid:
            return port


def refusal(port: int, protocol: str = "tcp") -> str | None:
    """Why 127.0.0.1:`port` can't be listened on, to follow "port N on 127.0.0.1"; None if it can."""
    with socket.socket(type=KINDS[protocol]) as sock:
        if protocol == "tcp":
            # As QEMU does: a connection that lingers from an earlier session doesn't count.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EACCES:
                return "is for root; use one above 1023"
            holder = holders.of_port(protocol, port)
            return "is taken by a process that is none of your machines" + (f" ({holder})" if holder else "")
        return None
