"""The wire between GDB and a guest's serial line: ``target remote | python … SOCKET …`` in GDB.

A pipe because every GDB takes one, and a UNIX socket only since 8.3; and because of Ctrl-C. GDB sends the byte
0x03 to stop a running program, which a kernel that debugs itself over a serial line doesn't listen for: it is
taken out of the stream here, and the guest is stopped by a BREAK on the line, or by a command.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import read, write
from pathlib import Path

import rumplab
from rumplab import qmp

INTERRUPT = 0x03
PACKET_START = ord("$")
PACKET_END = ord("#")
CHECKSUM_DIGITS = 2
CHUNK = 4096
# Of a command that stops the guest.
COMMAND_SECONDS = 30
# For what the guest says after GDB has hung up.
LAST_WORDS_SECONDS = 0.3
# This very module, whatever the working directory and the user's Python settings hold.
CALL = "import sys; sys.path.insert(0, sys.argv.pop(1)); from rumplab.guest.wire import main; sys.exit(main(sys.argv[1:]))"


@dataclass
class Outgoing:
    """What GDB sends, with the interrupts taken out. `left` counts the bytes that a packet's end still has."""

    inside: bool = False
    left: int = 0

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """What goes to the guest of `data`, and how many interrupts were in it. 0x03 within a packet is data."""
        kept = bytearray()
        interrupts = 0
        for byte in data:
            if self.left:
                self.left -= 1
            elif self.inside:
                if byte == PACKET_END:
                    self.inside, self.left = False, CHECKSUM_DIGITS
            elif byte == PACKET_START:
                self.inside = True
            elif byte == INTERRUPT:
                interrupts += 1
                continue
            kept.append(byte)
        return bytes(kept), interrupts


def relay(guest: socket.socket, source: int, sink: int, interrupt: Callable[[], None]) -> bool:
    """Carries bytes from the file `source` to `guest` and from there to the file `sink`, until one of them ends.

    Calls `interrupt` for every Ctrl-C of GDB's. Returns whether it was GDB that ended.
    """
    outgoing = Outgoing()
    # Never wait for the guest to take something: it may be running, and Ctrl-C must come through all the same.
    guest.setblocking(False)
    waiting = b""
    while True:
        readable, writable, _ = select.select([source, guest], [guest] if waiting else [], [])
        try:
            if guest in readable:
                data = guest.recv(CHUNK)
                if not data:
                    return False
                write_all(sink, data)
            if writable:
                waiting = waiting[guest.send(waiting) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            return False
        if source in readable:
            data = read(source, CHUNK)
            if not data:
                return True
            kept, interrupts = outgoing.feed(data)
            waiting += kept
            for _ in range(interrupts):
                interrupt()


def acknowledge_rest(guest: socket.socket) -> None:
    """Acknowledges what the guest still says. A GDB that quits sends `k` and hangs up, and NetBSD answers even that,
    and waits for the acknowledgement for ever."""
    guest.settimeout(LAST_WORDS_SECONDS)
    with contextlib.suppress(OSError):
        while data := guest.recv(CHUNK):
            guest.sendall(b"+" * data.count(b"#"))


def write_all(sink: int, data: bytes) -> None:
    while data:
        data = data[write(sink, data) :]


def complain(message: str) -> None:
    """GDB shows what the other end of its pipe writes here."""
    print(f"rumplab: {message}", file=sys.stderr, flush=True)


def send_break(control: Path, line: str) -> None:
    """Sends a BREAK on the machine's character device `line`, through its QMP socket `control`."""
    try:
        qmp.execute(control, "chardev-send-break", arguments={"id": line})
    except qmp.QmpError as error:
        complain(f"cannot send a BREAK to the guest: {error}")


def run_command(command: Sequence[str]) -> None:
    """Runs the command that stops the guest, and shows what it says when it fails."""
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        complain(f"cannot stop the guest: {error}")
    else:
        if result.returncode:
            complain(f"cannot stop the guest: {result.stdout.decode(errors='replace').strip()}")


def no_way() -> None:
    complain("Ctrl-C can't stop this guest")


def argv(
    line_socket: str, control: str | None = None, line: str | None = None, command: Sequence[str] = ()
) -> list[str]:
    """The command that GDB's pipe runs. `control` is a QMP socket, `line` the character device that a BREAK goes
    to; `command` is what stops the guest instead."""
    call = [sys.executable, "-I", "-c", CALL, str(Path(rumplab.__file__).parents[1]), line_socket]
    if control and line:
        call += ["--break", control, line]
    return [*call, "--", *command] if command else call


def shell(arguments: Sequence[str]) -> str:
    """`arguments` as GDB's pipe, which a shell takes apart, has them."""
    return " ".join(shlex.quote(argument) for argument in arguments)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="wire", allow_abbrev=False)
    made.add_argument("socket", type=Path, help="the UNIX socket of the guest's serial line")
    made.add_argument(
        "--break",
        dest="control",
        nargs=2,
        metavar=("CONTROL", "LINE"),
        help="Ctrl-C is a BREAK on the character device LINE of the machine with the QMP socket CONTROL",
    )
    made.add_argument("command", nargs="*", help="after --: Ctrl-C runs this instead")
    return made


def way(args: argparse.Namespace) -> Callable[[], None]:
    """What Ctrl-C does."""
    if args.command:
        return lambda: run_command(args.command)
    if args.control:
        return lambda: send_break(Path(args.control[0]), args.control[1])
    return no_way


def main(arguments: Sequence[str]) -> int:
    """Entry point, run by GDB. Returns 0 when GDB hung up, 1 when the guest did or wasn't there."""
    args = parser().parse_args(arguments)
    # A terminal sends Ctrl-C to everything on it; what it means is for GDB to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as guest:
        try:
            guest.connect(str(args.socket))
        except OSError as error:
            complain(f"{args.socket}: {error.strerror}; is the guest running?")
            return 1
        if relay(guest, sys.stdin.fileno(), sys.stdout.fileno(), way(args)):
            acknowledge_rest(guest)
            return 0
    complain("the guest has closed its line")
    return 1
