"""A guest's console: for a user at a terminal, and for a dialogue that a verb has with whatever answers there.

What the console says is read from its log, which QEMU writes whoever is connected. What is typed goes through
the console's socket or, while a user has that open, through the user's ``rumplab guest console``, which listens
on a socket of its own for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import selectors
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from rumplab.errors import RumplabError
from rumplab.guest import attach
from rumplab.guest.hardware import CONSOLE, socket_path
from rumplab.launch import STDIN, terminal_restored
from rumplab.machines import Machine

LEAVE = b"\x1d"  # Ctrl-]
CHUNK = 4096
POLL_SECONDS = 0.05
# After the end of what is typed by a program, the guest's silence for so long ends the session.
QUIET_SECONDS = 2.0
# What of the log a user who attaches sees first.
CONTEXT = 2000
# A prompt at the very end of what the console has said: sh's or csh's, with or without the host's name.
PROMPT = r"(?:^|[\r\n])[^\r\n]{0,60}[#$%>] \Z"


def typed_path(machine: Machine) -> Path:
    """Where `rumplab guest console` takes what others type."""
    return machine.path / f"{CONSOLE}.in"


class Console:
    """A dialogue. `expect` looks at what has been said since the last match, or since the dialogue began."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.position = machine.serial_log.stat().st_size
        self._line: socket.socket | None = None
        self._lock: int | None = None

    def __enter__(self) -> Console:
        self._lock = attach.lock(self.machine, CONSOLE)
        if self._lock is None:
            self._line = _connect(typed_path(self.machine), socket.SOCK_DGRAM, self.machine)
        elif attach.taken(self.machine, CONSOLE):
            os.close(self._lock)
            raise RumplabError(
                f"the console of {self.machine.name} is in use by a program that is not rumplab's; end that first"
            )
        else:
            self._line = _connect(socket_path(self.machine, CONSOLE), socket.SOCK_STREAM, self.machine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._line.close()
        if self._lock is not None:
            os.close(self._lock)

    def send(self, text: str) -> None:
        """Types `text`."""
        if self._line is None:
            raise RuntimeError("the console isn't open")
        try:
            self._line.sendall(text.encode())
        except OSError as error:
            raise RumplabError(f"the console of {self.machine.name} is gone: {error.strerror}") from error

    def said(self) -> str:
        """What the console has said since the last match."""
        self._drain()
        with self.machine.serial_log.open("rb") as log:
            log.seek(self.position)
            # A character a byte, so that the position can be counted.
            return log.read().decode("latin-1")

    def tail(self) -> str:
        """The end of what has been said at all."""
        return _end(self.machine.serial_log).decode("latin-1")

    def expect(self, pattern: str, seconds: float) -> str | None:
        """What was said up to the end of the first match of `pattern`; None if none comes within `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            text = self.said()
            found = re.search(pattern, text)
            if found:
                self.position += found.end()
                return text[: found.end()]
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_SECONDS)

    def _drain(self) -> None:
        """Takes what comes through the socket, which else would hold the guest up."""
        if self._line is not None and self._lock is not None:
            while select.select([self._line], [], [], 0)[0] and self._line.recv(CHUNK):
                pass


def _connect(path: Path, kind: socket.SocketKind, machine: Machine) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, kind)
    line.settimeout(5)
    try:
        line.connect(str(path))
    except OSError as error:
        line.close()
        raise RumplabError(
            f"cannot open the console of {machine.name}, {path}: {error.strerror}; is another program at it?"
        ) from error
    return line


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the guest, at once and unseen, if this is a terminal."""
    with terminal_restored():
        if os.isatty(STDIN):
            tty.setraw(STDIN, termios.TCSADRAIN)
        yield


def interact(machine: Machine) -> bool:
    """Connects this terminal, or what stands for it, to the console until the user leaves or the guest ends;
    whether it was the user."""
    # Only here: a dialogue does without, and it takes its time to load.
    from rumplab.image.writer import interruptible

    what = f"the console of {machine.name} is open already"
    with attach.held(machine, CONSOLE, what, "leave that with Ctrl-]"), contextlib.ExitStack() as stack:
        line = stack.enter_context(_connect(socket_path(machine, CONSOLE), socket.SOCK_STREAM, machine))
        typed = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        path = typed_path(machine)
        path.unlink(missing_ok=True)
        typed.bind(str(path))
        stack.callback(path.unlink, missing_ok=True)
        if os.isatty(STDIN):
            print(f"console of {machine.name}; Ctrl-] leaves it", file=sys.stderr)
            _write(_end(machine.serial_log))
        stack.enter_context(interruptible())
        stack.enter_context(_raw_terminal())
        return _relay(line, typed)


def _end(log: Path) -> bytes:
    """The end of the log, from a line's beginning on."""
    with log.open("rb") as handle:
        handle.seek(max(handle.seek(0, os.SEEK_END) - CONTEXT, 0))
        text = handle.read()
    return text if len(text) < CONTEXT else text.partition(b"\n")[2]


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _relay(line: socket.socket, typed: socket.socket) -> bool:
    """Carries what is said and typed. Whether it was the user's side that ended."""
    # Unlike epoll, select takes a regular file for standard input.
    with selectors.SelectSelector() as selector:
        for source in (STDIN, line, typed):
            selector.register(source, selectors.EVENT_READ)
        patience: float | None = None
        while ready := selector.select(patience):
            for key, _ in ready:
                if key.fileobj is line:
                    said = line.recv(CHUNK)
                    if not said:
                        return False
                    _write(said)
                elif key.fileobj is typed:
                    line.sendall(typed.recv(CHUNK))
                else:
                    keys = os.read(STDIN, CHUNK)
                    before, leave, _ = keys.partition(LEAVE)
                    line.sendall(before)
                    if leave:
                        return True
                    if not keys:
                        selector.unregister(STDIN)
                        patience = QUIET_SECONDS
        return True
