"""Finds out whether a guest's kernel is in its debugger, and stops it there.

The only reliable sign is an answer: a kernel in kgdb answers GDB's ``?`` packet, a running kernel doesn't. This module
needs only this packet of GDB's remote serial protocol.
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

# The leading '+' acknowledges a packet that the kernel may have sent to an earlier debugger.
QUESTION = b"+" + rsp.frame(b"?")
ANSWER_SECONDS = 1.5
ENTER_SECONDS = 5.0
# After so many seconds without a byte, the transmission is complete.
QUIET_SECONDS = 0.2
AGAIN_SECONDS = 1.0
CHUNK = 4096
LOOKED_AT = 1 << 20
# What NetBSD and Linux print on the console when they wait for a debugger for the first time.
WAITING = ("kgdb waiting...", "KGDB: Waiting for connection from remote gdb")
# What Linux prints when it has received a magic SysRq key.
SYSRQ = r"(?i)sysrq ?: "
HELD = ("paused", "prelaunch", "debug")


def ask(path: Path, seconds: float) -> bool:
    """Whether a debug stub answers on the socket `path` within `seconds`. Reads and acknowledges all of its answers."""
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(seconds)
            line.connect(str(path))
            while (left := deadline - time.monotonic()) > 0:
                # A kernel that is entering its debugger may lose the packet, so it is sent again.
                line.sendall(QUESTION)
                if _answered(line, min(left, AGAIN_SECONDS)):
                    _drain(line)
                    return True
    except OSError:
        # The machine has ended.
        return False
    return False


def _answered(line: socket.socket, seconds: float) -> bool:
    """Whether a whole packet arrives within `seconds`. Acknowledges it. ConnectionResetError at the stream's end."""
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
                # '-' requests the packet again.
                line.sendall(b"-")
    return False


def _drain(line: socket.socket) -> None:
    """Reads and acknowledges further answers: the kernel answers each of the packets that were sent to it."""
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
    """RumplabError unless QEMU executes the guest: the kernel can't answer while QEMU has stopped the processor."""
    found = state(machine)
    if found in HELD:
        raise RumplabError(
            f"{machine.name} is held by QEMU's own debug stub ({found}); continue it with:"
            f" rumplab guest debug {machine.name} --qemu-stub --batch --ex detach"
        )
    if found != "running":
        raise RumplabError(
            f"{machine.name} doesn't run (QEMU reports: {found}); read its console with: rumplab logs {machine.name}"
        )


def waits(machine: Machine) -> bool:
    """Whether the console says that the kernel waits for its first debugger."""
    signs = [sign.encode() for sign in WAITING]
    before = b""
    with machine.serial_log.open("rb") as log:
        # The log may be larger than the memory, so it is read in pieces.
        for piece in iter(lambda: log.read(LOOKED_AT), b""):
            if any(sign in before + piece for sign in signs):
                return True
            before = (before + piece)[-max(map(len, signs)) :]
    return False


def first_time(machine: Machine) -> bool:
    """Whether nobody has opened the debugger's line yet."""
    return not lines.lock_path(machine, DEBUGGER).exists()


def stopped(machine: Machine, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether the kernel is in its debugger. Requires that no other client has the line."""
    return ask(socket_path(machine, DEBUGGER), seconds)


def in_debugger(machine: Machine) -> bool:
    """Whether the kernel is in its debugger. While another debugger has the line, the answer is False: the kernel can't
    be asked."""
    if machine.guest == ipkdb.IPKDB:
        return ipkdb.waits(machine)
    return not lines.taken(machine, DEBUGGER) and stopped(machine)


def send_break(machine: Machine, line: str) -> None:
    """Sends a BREAK on the serial line `line`."""
    try:
        qmp.execute(machine.socket, "chardev-send-break", arguments={"id": line})
    except qmp.QmpError as error:
        raise RumplabError(f"cannot send a BREAK to {machine.name}: {error}") from error


def refuse_recorded(machine: Machine) -> None:
    """RumplabError for a guest that is being recorded: QEMU records no BREAK, and a serial port loses GDB's packets,
    since the guest gets all bytes of a packet at once."""
    if machine.recording:
        raise RumplabError(
            f"{machine.name} is being recorded, and QEMU can't record a session on a serial line; use QEMU's debug"
            f" stub: rumplab guest debug {machine.name} --qemu-stub; or debug the recording: rumplab debug"
            f" {Path(machine.recording).name} --replay"
        )


def interrupt(machine: Machine, guest: Guest, confirm: bool) -> None:
    """Stops a running kernel in its debugger. With `confirm`, waits until it has stopped, and raises RumplabError after
    ENTER_SECONDS; this requires that no other client has the debugger's line."""
    with contextlib.ExitStack() as stack:
        if guest.kind == LINUX:
            # Magic SysRq on the serial console: a BREAK, then the key within five seconds.
            console = stack.enter_context(Console(machine))
            send_break(machine, CONSOLE)
            console.send("g")
            # Linux's message confirms that the key has arrived. The console must stay open until then.
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
