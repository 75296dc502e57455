"""Who holds one of a guest's serial lines, or a machine's debug stub: each serves one client at a time.

A client that would be the second one isn't refused by QEMU, but waits until the first one has gone. So a tool
that opens a line takes a lock beside its socket, and asks QEMU about others.
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

# The serial ports: each is a UNIX socket of QEMU's.
CONSOLE = "com0"
DEBUGGER = "com1"
# QEMU's own name of the debug stub.
STUB = "gdb"
DISCONNECTED = "disconnected:"
# A connection as QEMU shows it: the other end of TCP, or the socket that somebody is connected to.
PEER = re.compile(r"<-> 127\.0\.0\.1:([0-9]+)$")
OWN = re.compile(r"unix:(.+?)(?:,server(?:=on)?)?", re.DOTALL)


def socket_path(machine: Machine, line: str) -> Path:
    """The socket of the serial port `line`, CONSOLE or DEBUGGER."""
    return machine.path / f"{line}.sock"


def lock_path(machine: Machine, line: str) -> Path:
    return machine.path / f"{line}.lock"


def lock(machine: Machine, line: str) -> int | None:
    """An open file with the lock of `line`, which lasts as long as it is open; None if somebody has it."""
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
    """Who has the lock of `line`, in words."""
    text = lock_path(machine, line).read_text(encoding="ascii", errors="replace").strip()
    if re.fullmatch("[0-9]{1,10}", text) and process.started(int(text)):
        return f"pid {text}"
    return "another process"


def second_debugger(machine: Machine) -> tuple[str, str]:
    """What `held` says to who comes second to a debugger's line."""
    return f"another debugger is attached to {machine.name}", "leave that first"


def taken(machine: Machine, line: str) -> bool:
    """Whether some client is connected to the socket of `line`."""
    return client(machine, line) is not None


def client(machine: Machine, line: str) -> str | None:
    """Who is connected to the socket of `line`, in words; None for nobody."""
    try:
        for chardev in qmp.execute(machine.socket, "query-chardev"):
            if chardev["label"] == line:
                name: str = chardev["filename"]
                return None if name.startswith(DISCONNECTED) else described(name)
    except MALFORMED as error:
        raise RumplabError(f"{machine.name} answers in a form that isn't known: {error}") from error
    except qmp.QmpError as error:
        raise RumplabError(f"{machine.name} doesn't answer: {error}; look at it with: rumplab ps") from error
    raise RumplabError(f"{machine.name} has no line {line}; 'rumplab guest start' makes those of a guest")


def described(connection: str) -> str:
    """The client of a `connection` as QEMU shows it, in words."""
    peer, own = PEER.search(connection), OWN.fullmatch(connection)
    found = holders.of_connection(int(peer[1])) if peer else holders.of_client(own[1]) if own else None
    return found or "a program that is not rumplab's has opened its socket"


@contextlib.contextmanager
def held(machine: Machine, line: str, what: str, remedy: str) -> Iterator[int]:
    """Holds the lock of `line` and yields its open file. RumplabError names whoever has the line: `what` says
    what it is then, `remedy` what to do about it."""
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
