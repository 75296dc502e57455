"""Locks on a guest's serial lines and on a machine's debug stub, each of which serves one client at a time.

QEMU doesn't refuse a second client: the client waits until the first one disconnects. So a tool that opens a line takes
a lock file beside the socket, and asks QEMU whether a client without a lock is connected.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import holders, process
from rumplab.host.answers import MALFORMED
from rumplab.machine import qmp
from rumplab.machine.registry import Machine

# The serial ports. Each is a UNIX socket on which QEMU listens.
CONSOLE = "com0"
DEBUGGER = "com1"
# QEMU's name for the character device of its debug stub.
STUB = "gdb"
DISCONNECTED = "disconnected:"
# QEMU's name for the connection of a console on a pipe, which knows no client.
PIPE = "pipe"
# A connection as QEMU shows it: the peer's TCP port, or the path of the socket that a client has opened.
PEER = re.compile(r"<-> 127\.0\.0\.1:([0-9]+)$")
OWN = re.compile(r"unix:(.+?)(?:,server(?:=on)?)?", re.DOTALL)


def socket_path(machine: Machine, line: str) -> Path:
    """The socket of the serial port `line`, CONSOLE or DEBUGGER."""
    return machine.path / f"{line}.sock"


def pipe_path(machine: Machine) -> Path:
    """The console of a guest that is being recorded: QEMU reads the FIFO with `.in` behind this name, and writes the
    file with `.out`. On a socket without a client, QEMU would record that it can't write, and the replay would print
    nothing."""
    return machine.path / "console"


def lock_path(machine: Machine, line: str) -> Path:
    return machine.path / f"{line}.lock"


def lock(machine: Machine, line: str) -> int | None:
    """An open file that holds the lock of `line` until it is closed; None if another process holds the lock."""
    handle = os.open(lock_path(machine, line), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def holder(machine: Machine, line: str) -> str:
    """The process that holds the lock of `line`, as text for a message."""
    text = lock_path(machine, line).read_text(encoding="ascii", errors="replace").strip()
    if re.fullmatch("[0-9]{1,10}", text) and process.started(int(text)):
        return f"pid {text}"
    return "another process"


def second_debugger(machine: Machine) -> tuple[str, str]:
    """The arguments `what` and `remedy` of `held` for a debugger's line."""
    return f"another debugger is attached to {machine.name}", "leave that first"


def taken(machine: Machine, line: str) -> bool:
    """Whether a client is connected to the socket of `line`."""
    return client(machine, line) is not None


def client(machine: Machine, line: str) -> str | None:
    """The client that is connected to the socket of `line`, as text for a message; None when there is none."""
    try:
        for chardev in qmp.execute(machine.socket, "query-chardev"):
            if chardev["label"] == line:
                name: str = chardev["filename"]
                return None if name.startswith(DISCONNECTED) or name == PIPE else described(name)
    except MALFORMED as error:
        raise RumplabError(f"{machine.name} sends an unknown answer: {error}; look at it with: rumplab ps") from error
    except qmp.QmpError as error:
        raise RumplabError(f"{machine.name} doesn't answer: {error}; look at it with: rumplab ps") from error
    raise RumplabError(f"{machine.name} has no serial line {line}; use a machine that 'rumplab guest start' started")


def described(connection: str) -> str:
    """The client of a `connection` (in QEMU's notation), as text for a message."""
    peer, own = PEER.search(connection), OWN.fullmatch(connection)
    found = holders.of_connection(int(peer[1])) if peer else holders.of_client(own[1]) if own else None
    return found or "a program other than rumplab has opened its socket"


@contextlib.contextmanager
def held(machine: Machine, line: str, what: str, remedy: str) -> Iterator[int]:
    """Takes the lock of `line` and yields the open file that holds it. RumplabError when another process has the line:
    its message is `what`, the process, and `remedy`."""
    handle = lock(machine, line)
    if handle is None:
        raise RumplabError(f"{what} ({holder(machine, line)}); {remedy}")
    try:
        who = client(machine, line)
        if who:
            raise RumplabError(f"{what} ({who}); {remedy}")
        yield handle
    finally:
        os.close(handle)
