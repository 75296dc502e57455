"""The wire between GDB and a guest's serial line, or a debug stub: ``target remote | python … SOCKET …`` in GDB.

A pipe because every GDB takes one, and a UNIX socket only since 8.3; and because of Ctrl-C. GDB sends the byte
0x03 to stop a running program, which a kernel that debugs itself over a serial line doesn't listen for: it is
taken out of the stream here, and the guest is stopped by a BREAK on the line, or by a command. A stub does
listen for it.

GDB's prompt waits for this module to load, which is why it does without much of the standard library.
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

import rumplab

INTERRUPT = 0x03
PACKET_START = ord("$")
PACKET_END = ord("#")
ACKNOWLEDGEMENTS = b"+-"
CHECKSUM_DIGITS = 2
# The packets that nothing answers until the program stops.
RESUMING = b"cCsS"
CHUNK = 4096
THROUGH = "--through"
# How long GDB's last packet and its answer may take, and by which silence all has come. GDB grants its pipe 5 s.
FINISH_SECONDS = 3.0
QUIET_SECONDS = 0.1
# Of a command that stops the guest.
COMMAND_SECONDS = 30
# This very module, whatever the working directory and the user's Python settings hold. It needs no site-packages.
CALL = "import sys; sys.path.insert(0, sys.argv[1]); from rumplab.wire import main; sys.exit(main(sys.argv[2:]))"


class Stream:
    """One direction of the protocol. `kind` is the first byte of the last packet, `left` counts the bytes that its
    end still has; `owed` says that it has ended and the other side hasn't acknowledged it yet, `asked` that the other
    side's answer hasn't ended yet."""

    def __init__(self) -> None:
        self.inside = False
        self.kind = 0
        self.left = 0
        self.owed = False
        self.asked = False

    def feed(self, data: bytes, other: Stream) -> tuple[bytes, int]:
        """`data` without the interrupts, and how many there were. 0x03 within a packet is data.

        What it acknowledges is `other`'s.
        """
        kept = bytearray()
        interrupts = 0
        for byte in data:
            if self.left:
                self.left -= 1
                if not self.left:
                    self.owed, self.asked, other.asked = True, self.kind not in RESUMING, False
            elif self.inside:
                self.kind = self.kind or byte
                if byte == PACKET_END:
                    self.inside, self.left = False, CHECKSUM_DIGITS
            elif byte == PACKET_START:
                self.inside, self.kind = True, 0
            elif byte in ACKNOWLEDGEMENTS:
                other.owed = False
            elif byte == INTERRUPT:
                interrupts += 1
                continue
            kept.append(byte)
        return bytes(kept), interrupts


class Wire:
    """Carries bytes from the file `source` to `guest` and from there to the file `sink`. `waiting` is what the
    guest hasn't taken yet."""

    def __init__(self, guest: socket.socket, source: int, sink: int) -> None:
        self.guest = guest
        self.source = source
        self.sink = sink
        self.outgoing = Stream()
        self.incoming = Stream()
        self.waiting = b""

    def relay(self, interrupt: Callable[[], None]) -> bool:
        """Until one side ends. Calls `interrupt` for every Ctrl-C of GDB's. Returns whether it was GDB that ended."""
        # Never wait for the guest to take something: it may be running, and Ctrl-C must come through all the same.
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

    def pass_on(self) -> None:
        """Gives the other end an interrupt as GDB does."""
        self.waiting += bytes([INTERRUPT])

    def command(self) -> bytes:
        """What GDB sends, nothing once it has hung up: maybe with something unread, which resets its socket."""
        try:
            return read(self.source, CHUNK)
        except ConnectionError:
            return b""

    def receive(self) -> bytes:
        """What the guest sends, nothing once it has closed the line."""
        try:
            data = self.guest.recv(CHUNK)
        except ConnectionError:
            return b""
        self.incoming.feed(data, self.outgoing)
        return data

    def send(self) -> bool:
        """Gives the guest what it takes; whether it is still there."""
        try:
            self.waiting = self.waiting[self.guest.send(self.waiting) :]
        except ConnectionError:
            return False
        return True

    def finish(self) -> None:
        """Sees to it, when GDB has hung up, that its last packet still arrives.

        QEMU drops what the guest hasn't taken when the connection ends, and the kernel waits for its answer to be
        acknowledged: GDB, which ends a session with `k`, doesn't wait for one.
        """
        deadline = time.monotonic() + FINISH_SECONDS
        while time.monotonic() < deadline:
            if self.incoming.owed:
                self.incoming.owed = False
                self.waiting += b"+"
            wanted = [self.guest] if self.waiting else []
            readable, writable, _ = select.select([self.guest], wanted, [], QUIET_SECONDS)
            if (writable and not self.send()) or (readable and not self.receive()):
                return
            expected = self.outgoing.owed or self.outgoing.asked or unread(self.guest)
            if not readable and not writable and not expected:
                return

    def hear_out(self) -> None:
        """Ends what GDB reads, and takes what it still writes until it hangs up, for a while."""
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
    """Whether the other end hasn't read all that was sent yet; False where the system can't tell."""
    # Only here, as in send_break() and run_command(): GDB has gone by then.
    import fcntl
    import termios

    try:
        count = fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return False
    return any(count)


def write_all(sink: int, data: bytes) -> bool:
    """Writes all of `data`; whether somebody still reads it."""
    try:
        while data:
            data = data[write(sink, data) :]
    except ConnectionError:
        return False
    return True


def complain(message: str) -> None:
    """GDB shows what the other end of its pipe writes here."""
    print(f"rumplab: {message}", file=sys.stderr, flush=True)


def send_break(control: str, line: str) -> None:
    """Sends a BREAK on the machine's character device `line`, through its QMP socket `control`."""
    # Only here, as in run_command(), so that a session's start doesn't wait for it.
    from pathlib import Path

    from rumplab import qmp

    try:
        qmp.execute(Path(control), "chardev-send-break", arguments={"id": line})
    except qmp.QmpError as error:
        complain(f"cannot send a BREAK to the guest: {error}")


def run_command(command: Sequence[str]) -> None:
    """Runs the command that stops the guest, and shows what it says when it fails."""
    import subprocess

    from rumplab import surroundings

    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=surroundings.of(surroundings.ITSELF),
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
    line_socket: str,
    control: str | None = None,
    line: str | None = None,
    command: Sequence[str] = (),
    through: bool = False,
) -> list[str]:
    """The command that GDB's pipe runs: ``… SOCKET [--through | --break CONTROL LINE | -- COMMAND…]``. `control` is
    a QMP socket, `line` the character device that a BREAK goes to; `command` is what stops the guest instead. With
    `through` a stub is behind the socket, which takes an interrupt as it is."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(rumplab.__file__)))
    call = [sys.executable, "-I", "-S", "-c", CALL, root, line_socket]
    if through:
        return [*call, THROUGH]
    if command:
        return [*call, "--", *command]
    return [*call, "--break", control, line] if control and line else call


def way(words: Sequence[str], wire: Wire) -> Callable[[], None]:
    """What Ctrl-C does, by what stands behind the socket in `argv`."""
    if words[:1] == [THROUGH]:
        return wire.pass_on
    if words[:1] == ["--"]:
        return lambda: run_command(words[1:])
    if words[:1] == ["--break"]:
        _, control, line = words
        return lambda: send_break(control, line)
    return no_way


def main(arguments: Sequence[str]) -> int:
    """Entry point, run by GDB with the words of `argv`. Returns 0 when GDB hung up, 1 when the guest did or wasn't
    there."""
    line_socket, words = arguments[0], list(arguments[1:])
    # A terminal sends Ctrl-C to everything on it; what it means is for GDB to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as guest:
        try:
            guest.connect(line_socket)
        except OSError as error:
            complain(f"{line_socket}: {error.strerror}; is the guest running?")
            return 1
        wire = Wire(guest, sys.stdin.fileno(), sys.stdout.fileno())
        if wire.relay(way(words, wire)):
            wire.finish()
            return 0
        # GDB shows this only when its next read fails, and not when a write does: so it is read on until it gives up.
        complain("the guest has closed its line")
        wire.hear_out()
    return 1
