"""Ports on 127.0.0.1: those of debug stubs, and those that are forwarded to guests."""

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
    """Warns on standard error that every user of this host can attach to a debug stub on a TCP port."""
    print(
        f"rumplab: the debug stub on {LOOPBACK}:{port} is open to every user of this host: whoever attaches controls"
        " the guest and QEMU's monitor, and so can read and write your files; only QEMU's sandbox, which runs no"
        " program, limits them; on a host that you share, leave --gdb-port out: then only you can attach",
        file=sys.stderr,
    )


def free(avoid: Collection[int] = (), protocol: str = "tcp") -> int:
    """Returns a port of `protocol`, tcp or udp, that is free on 127.0.0.1 now and not in `avoid`. The port is not
    reserved: another process may take it meanwhile."""
    while True:
        with socket.socket(type=KINDS[protocol]) as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in avoid:
            return port


def refusal(port: int, protocol: str = "tcp") -> str | None:
    """Returns why no process can listen on 127.0.0.1:`port`, as the end of a sentence that begins with
    "port N on 127.0.0.1"; None if one can."""
    with socket.socket(type=KINDS[protocol]) as sock:
        if protocol == "tcp":
            # QEMU sets it too: a connection of an earlier session in the state TIME_WAIT doesn't block the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EACCES:
                return "is for root; use one above 1023"
            holder = holders.of_port(protocol, port)
            return "is taken by a process that is none of your machines" + (f" ({holder})" if holder else "")
        return None
