"""Whether a guest's kernel is in its debugger, and getting it there.

The one sign that can be relied on is an answer: a kernel in kgdb answers GDB's ``?``, and a kernel that runs
doesn't listen. The packets are those of GDB's remote serial protocol, of which no more is needed here.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.gdb import rsp
from rumplab.guest import ipkdb, lines
from rumplab.guest.console import Console
from rumplab.guest.definition import LINUX, Guest
from rumplab.guest.lines import CONSOLE, DEBUGGER, socket_path
from rumplab.machine import qmp
from rumplab.machine.registry import Machine

# The acknowledgement is for a kernel that still waits for one, of what it told an earlier debugger.
QUESTION = b"+" + rsp.frame(b"?")
ANSWER_SECONDS = 1.5
ENTER_SECONDS = 5.0
# Silence after the last byte, by which everything has come.
QUIET_SECONDS = 0.2
AGAIN_SECONDS = 1.0
CHUNK = 4096
LOOKED_AT = 1 << 20
# What kernels print on the console when they wait for a debugger for the first time.
WAITING = ("kgdb waiting...", "KGDB: Waiting for connection from remote gdb")
# What Linux prints when it has understood a key of magic SysRq's.
SYSRQ = r"(?i)sysrq ?: "
HELD = ("paused", "prelaunch", "debug")


def ask(path: Path, seconds: float) -> bool:
    """Whether a debugger stub answers on the socket `path` within `seconds`. Leaves nothing unanswered behind."""
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(seconds)
            line.connect(str(path))
            while (left := deadline - time.monotonic()) > 0:
                # A kernel on its way into the debugger may have lost the question.
                line.sendall(QUESTION)
                if _answered(line, min(left, AGAIN_SECONDS)):
                    _drain(line)
                    return True
    except OSError:
        # It has gone.
        return False
    return False


def _answered(line: socket.socket, seconds: float) -> bool:
    """Whether a whole packet comes within `seconds`; it is acknowledged then."""
    deadline = time.monotonic() + seconds
    parser = rsp.Parser()
    while (left := deadline - time.monotonic()) > 0:
        line.settimeout(left)
        try:
            piece = line.recv(CHUNK)
        except socket.timeout:
            return False
        if not piece:
            raise ConnectionResetError
        for part in parser.feed(piece):
            if isinstance(part, rsp.Packet):
                line.sendall(b"+")
                return True
            if part is rsp.Sign.BROKEN:
                # Have it sent again.
                line.sendall(b"-")
    return False


def _drain(line: socket.socket) -> None:
    """Takes what else comes, since questions may have been waiting in front of the one that was answered."""
    line.settimeout(QUIET_SECONDS)
    parser = rsp.Parser()
    with contextlib.suppress(socket.timeout):
        while piece := line.recv(CHUNK):
            line.sendall(b"+" * sum(isinstance(part, rsp.Packet) for part in parser.feed(piece)))


def state(machine: Machine) -> str:
    """QEMU's run state. RumplabError when it doesn't answer."""
    try:
        return qmp.status(machine.socket)
    except qmp.QmpError as error:
        raise RumplabError(f"{machine.name} doesn't answer: {error}; look at it with: rumplab ps") from error


def require_executing(machine: Machine) -> None:
    """RumplabError when QEMU itself holds the processor, so that the kernel can't do anything."""
    found = state(machine)
    if found in HELD:
        raise RumplabError(
            f"{machine.name} is held by QEMU's own debug stub ({found}); let it go on there:"
            f" rumplab guest debug {machine.name} --qemu-stub --batch --ex detach"
        )
    if found != "running":
        raise RumplabError(
            f"{machine.name} doesn't run, QEMU says: {found}; look at its console: rumplab logs {machine.name}"
        )


def waits(machine: Machine) -> bool:
    """Whether the console says that the kernel waits for its first debugger."""
    signs = [sign.encode() for sign in WAITING]
    before = b""
    with machine.serial_log.open("rb") as log:
        # A guest may have said more than there is memory for.
        for piece in iter(lambda: log.read(LOOKED_AT), b""):
            if any(sign in before + piece for sign in signs):
                return True
            before = (before + piece)[-max(map(len, signs)) :]
    return False


def first_time(machine: Machine) -> bool:
    """Whether nobody has opened the debugger's line yet."""
    return not lines.lock_path(machine, DEBUGGER).exists()


def stopped(machine: Machine, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether the kernel is in its debugger. The line must be free."""
    return ask(socket_path(machine, DEBUGGER), seconds)


def in_debugger(machine: Machine) -> bool:
    """Whether the kernel is in its debugger. With another debugger on its line it isn't asked: it may be running."""
    if machine.guest == ipkdb.IPKDB:
        return ipkdb.waits(machine)
    return not lines.taken(machine, DEBUGGER) and stopped(machine)


def send_break(machine: Machine, line: str) -> None:
    """Sends a BREAK on the serial line `line`."""
    try:
        qmp.execute(machine.socket, "chardev-send-break", arguments={"id": line})
    except qmp.QmpError as error:
        raise RumplabError(f"cannot send a BREAK to {machine.name}: {error}") from error


def interrupt(machine: Machine, guest: Guest, confirm: bool) -> None:
    """Stops a running kernel in its debugger. With `confirm`, for which the debugger's line must be free, returns
    when it is there; RumplabError when it isn't within ENTER_SECONDS."""
    with contextlib.ExitStack() as stack:
        if guest.kind == LINUX:
            # Magic SysRq on the serial console: a BREAK, then the key within five seconds.
            console = stack.enter_context(Console(machine))
            send_break(machine, CONSOLE)
            console.send("g")
            # Only what it says tells that the key has arrived, before the line is let go.
            if not console.expect(SYSRQ, ENTER_SECONDS):
                raise RumplabError(f"{machine.name} doesn't listen to a BREAK on its console; {advice(guest)}")
        else:
            send_break(machine, DEBUGGER)
        if confirm and not stopped(machine, ENTER_SECONDS):
            raise RumplabError(
                f"{machine.name} is not in its debugger {ENTER_SECONDS:.0f} s after a BREAK; {advice(guest)}"
            )


def advice(guest: Guest) -> str:
    if guest.kind == LINUX:
        return (
            "its kernel needs KGDB_SERIAL_CONSOLE and MAGIC_SYSRQ_SERIAL, and a program that has opened the console;"
            " or use --qemu-stub"
        )
    return "its kernel must have been built with KGDB on the second serial port and without DDB; or use --qemu-stub"
