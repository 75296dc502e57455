"""A guest's console, for a dialogue that a verb has with whatever answers there.

What the console says is read from its log, which QEMU writes whoever is connected. What is typed goes through
the console's socket or, while a user has that open, through the user's ``rumplab guest console``, which listens
on a socket of its own for it.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from pathlib import Path
from types import TracebackType

from rumplab.errors import RumplabError
from rumplab.guest import lines
from rumplab.guest.lines import CONSOLE, socket_path
from rumplab.machine.registry import Machine

CHUNK = 4096
MOST = 1 << 20
POLL_SECONDS = 0.05
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
        self._lock = lines.lock(self.machine, CONSOLE)
        if self._lock is None:
            self._line = connect(typed_path(self.machine), socket.SOCK_DGRAM, self.machine)
        elif lines.taken(self.machine, CONSOLE):
            os.close(self._lock)
            raise RumplabError(
                f"the console of {self.machine.name} is in use by a program that is not rumplab's; end that first"
            )
        else:
            self._line = connect(socket_path(self.machine, CONSOLE), socket.SOCK_STREAM, self.machine)
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
            # A guest may say more than anybody wants to hold: then the end of it counts.
            self.position = max(self.position, log.seek(0, os.SEEK_END) - MOST)
            log.seek(self.position)
            # A character a byte, so that the position can be counted.
            return log.read(MOST).decode("latin-1")

    def tail(self) -> str:
        """The end of what has been said at all."""
        return end(self.machine.serial_log).decode("latin-1")

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


def connect(path: Path, kind: socket.SocketKind, machine: Machine) -> socket.socket:
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


def end(log: Path) -> bytes:
    """The end of the log, from a line's beginning on."""
    with log.open("rb") as handle:
        handle.seek(max(handle.seek(0, os.SEEK_END) - CONTEXT, 0))
        text = handle.read()
    return text if len(text) < CONTEXT else text.partition(b"\n")[2]
