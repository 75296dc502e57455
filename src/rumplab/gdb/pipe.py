"""The relay between GDB and a guest's serial line, or a debug stub: ``target remote | python … SOCKET …`` in GDB.

It is a pipe because every GDB supports pipes, but UNIX sockets only since 8.3; and because of Ctrl-C. To stop a running
program, GDB sends the byte 0x03. A kernel that debugs itself over a serial line ignores this byte. So the relay removes
it from the stream and stops the guest with a BREAK on the line, or with a command. QEMU's stub handles the byte itself.

GDB's prompt waits until this module is loaded, so the module imports little of the standard library.
"""

from __future__ import annotations

import os.path
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from os import read, write

INTERRUPT = 0x03
PACKET_START = ord("$")
PACKET_END = ord("#")
ACKNOWLEDGEMENTS = b"+-"
CHECKSUM_DIGITS = 2
# The packets whose answer comes only when the program stops.
RESUMING = b"cCsS"
CHUNK = 4096
THROUGH = "--through"
# The time limit for GDB's last packet and its answer, and the silence after which the transmission is complete. GDB
# kills its pipe after 5 s.
FINISH_SECONDS = 3.0
QUIET_SECONDS = 0.1
# The time limit of a command that stops the guest.
COMMAND_SECONDS = 30


class Stream:
    """One direction of the protocol.

    `inside` tells that the data of a packet is being read. `kind` is the first byte of the last packet; `left` is the
    number of checksum digits that are missing. `unacknowledged` tells that the packet is complete and the other side
    hasn't acknowledged it; `unanswered` that the other side's answer isn't complete.
    """

    def __init__(self) -> None:
        self.inside = False
        self.kind = 0
        self.left = 0
        self.unacknowledged = False
        self.unanswered = False

    def feed(self, data: bytes, other: Stream) -> tuple[bytes, int]:
        """`data` without the interrupts, and the number of interrupts. 0x03 within a packet is data.

        The acknowledgements in `data` are for packets of the opposite direction, `other`.
        """
        kept = bytearray()
        interrupts = 0
        for byte in data:
            if self.left:
                self.left -= 1
                if not self.left:
                    self.unacknowledged, self.unanswered = True, self.kind not in RESUMING
                    other.unanswered = False
            elif self.inside:
                self.kind = self.kind or byte
                if byte == PACKET_END:
                    self.inside, self.left = False, CHECKSUM_DIGITS
            elif byte == PACKET_START:
                self.inside, self.kind = True, 0
            elif byte in ACKNOWLEDGEMENTS:
                other.unacknowledged = False
            elif byte == INTERRUPT:
                interrupts += 1
                continue
            kept.append(byte)
        return bytes(kept), interrupts


class Wire:
    """Copies bytes from the file `source` to the socket `guest`, and from `guest` to the file `sink`. `waiting` are the
    bytes that the guest's socket hasn't accepted yet."""

    def __init__(self, guest: socket.socket, source: int, sink: int) -> None:
        self.guest = guest
        self.source = source
        self.sink = sink
        self.outgoing = Stream()
        self.incoming = Stream()
        self.waiting = b""

    def relay(self, interrupt: Callable[[], None]) -> bool:
        """Copies until one side closes its end. Calls `interrupt` for every Ctrl-C. Returns whether GDB closed
        first."""
        # A running guest may accept nothing, and Ctrl-C must work all the same, so a write must not block.
        self.guest.setblocking(False)
        while True:
            sources: list[int | socket.socket] = [self.source, self.guest]
            wanted = [self.guest] if self.waiting else []
            readable, writable, _ = select.select(sources, wanted, [])
            if writable and not self.send():
                return False
            if self.guest in readable:
                data = self.receive()
                if not data:
                    return False
                if not write_all(self.sink, data):
                    return True
            if self.source in readable:
                data = self.command()
                if not data:
                    return True
                kept, interrupts = self.outgoing.feed(data, self.incoming)
                self.waiting += kept
                for _ in range(interrupts):
                    interrupt()

    def forward_interrupt(self) -> None:
        """Sends the interrupt byte to the stub."""
        self.waiting += bytes([INTERRUPT])

    def command(self) -> bytes:
        """The bytes that GDB sends; empty when GDB has closed its end. If GDB closes with data unread, the socket is
        reset."""
        try:
            return read(self.source, CHUNK)
        except ConnectionError:
            return b""

    def receive(self) -> bytes:
        """The bytes that the guest sends; empty when the guest has closed the line."""
        try:
            data = self.guest.recv(CHUNK)
        except ConnectionError:
            return b""
        self.incoming.feed(data, self.outgoing)
        return data

    def send(self) -> bool:
        """Sends as many waiting bytes as the socket accepts. Returns False when the guest has closed the line."""
        try:
            self.waiting = self.waiting[self.guest.send(self.waiting) :]
        except ConnectionError:
            return False
        return True

    def finish(self) -> None:
        """After GDB has closed its end, waits until the guest has received GDB's last packet, and acknowledges the
        answer.

        When the connection ends, QEMU drops the bytes that the guest hasn't read. GDB ends a session with `k` and
        doesn't wait for an answer, but the kernel sends one and waits for its acknowledgement.
        """
        deadline = time.monotonic() + FINISH_SECONDS
        while time.monotonic() < deadline:
            if self.incoming.unacknowledged:
                self.incoming.unacknowledged = False
                self.waiting += b"+"
            wanted = [self.guest] if self.waiting else []
            readable, writable, _ = select.select([self.guest], wanted, [], QUIET_SECONDS)
            if (writable and not self.send()) or (readable and not self.receive()):
                return
            expected = self.outgoing.unacknowledged or self.outgoing.unanswered or unread(self.guest)
            if not readable and not writable and not expected:
                return

    def drain_gdb(self) -> None:
        """Ends GDB's input, then reads and discards what GDB sends until it closes its end, for FINISH_SECONDS at
        most."""
        try:
            # GDB's pipe is one socket for both directions.
            with socket.socket(fileno=os.dup(self.sink)) as sink:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            os.close(self.sink)
        deadline = time.monotonic() + FINISH_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.source], [], [], left)[0] or not self.command():
                return


def unread(sender: socket.socket) -> bool:
    """Whether the peer hasn't read all sent bytes yet; False if the system can't tell."""
    # Imported here to keep the module's load short; GDB doesn't wait for this function.
    import fcntl
    import termios

    try:
        count = fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return False
    return any(count)


def write_all(sink: int, data: bytes) -> bool:
    """Writes all of `data`. Returns False when the reader has closed its end."""
    try:
        while data:
            data = data[write(sink, data) :]
    except ConnectionError:
        return False
    return True


def report_error(message: str) -> None:
    """Prints an error on standard error, which GDB shows to its user."""
    print(f"rumplab: {message}", file=sys.stderr, flush=True)


def send_break(control: str, line: str) -> None:
    """Sends a BREAK on the machine's character device `line`, through its QMP socket `control`."""
    # Imported here and in run_command(), so that a session's start doesn't wait for these modules.
    from pathlib import Path

    from rumplab.machine import qmp

    try:
        qmp.execute(Path(control), "chardev-send-break", arguments={"id": line})
    except qmp.QmpError as error:
        report_error(f"cannot send a BREAK to the guest: {error}")


def run_command(command: Sequence[str]) -> None:
    """Runs the command that stops the guest. Prints its output if it fails."""
    import subprocess

    from rumplab.host import child_environment

    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment.of(child_environment.ITSELF),
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        report_error(f"cannot stop the guest: {error}")
    else:
        if result.returncode:
            report_error(f"cannot stop the guest: {result.stdout.decode(errors='replace').strip()}")


def refuse_interrupt() -> None:
    report_error("Ctrl-C can't stop this guest")


def argv(
    line_socket: str,
    control: str | None = None,
    line: str | None = None,
    command: Sequence[str] = (),
    through: bool = False,
) -> list[str]:
    """The command of GDB's pipe: ``… SOCKET [--through | --break CONTROL LINE | -- COMMAND…]``.

    On Ctrl-C, it sends a BREAK on the character device `line` through the QMP socket `control`, or runs `command`. With
    `through`, the socket belongs to a stub that handles the interrupt byte itself.
    """
    # Imported here because the process that GDB starts doesn't need it.
    from rumplab.host.process import own_module

    call = own_module("rumplab.gdb.pipe", line_socket)
    if through:
        return [*call, THROUGH]
    if command:
        return [*call, "--", *command]
    return [*call, "--break", control, line] if control and line else call


def interrupt_handler(words: Sequence[str], wire: Wire) -> Callable[[], None]:
    """The function to call on Ctrl-C. `words` are the arguments after the socket; see `argv`."""
    if words[:1] == [THROUGH]:
        return wire.forward_interrupt
    if words[:1] == ["--"]:
        return lambda: run_command(words[1:])
    if words[:1] == ["--break"]:
        _, control, line = words
        return lambda: send_break(control, line)
    return refuse_interrupt


def main(arguments: Sequence[str]) -> int:
    """The entry point, which GDB's pipe runs with the arguments that `argv` makes. Returns 0 when GDB closed its end, 1
    when the guest closed the line or couldn't be reached."""
    line_socket, words = arguments[0], list(arguments[1:])
    # A terminal sends SIGINT to GDB and to its pipe; GDB alone handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as guest:
        try:
            guest.connect(line_socket)
        except OSError as error:
            report_error(f"{line_socket}: {error.strerror}; is the guest running?")
            return 1
        wire = Wire(guest, sys.stdin.fileno(), sys.stdout.fileno())
        if wire.relay(interrupt_handler(words, wire)):
            wire.finish()
            return 0
        # GDB shows this message only after a failed read, not after a failed write. So keep reading until GDB closes.
        report_error("the guest has closed its line")
        wire.drain_gdb()
    return 1
