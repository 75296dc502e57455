"""A guest's console: a verb sends text to it and waits for the output that it expects.

Output is read from the console's log, which QEMU writes whether or not a client is connected. Input goes through the
console's socket. While a user has that socket open with ``rumplab guest console``, input goes to that command, which
listens on a second socket for it.
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
# Bytes at the end of the log that a user sees first on attaching.
CONTEXT = 2000
# A prompt at the very end of the console's output: sh's or csh's, with or without the host's name.
PROMPT = r"(?:^|[\r\n])[^\r\n]{0,60}[#$%>] \Z"


def typed_path(machine: Machine) -> Path:
    """The socket on which `rumplab guest console` receives input from other commands."""
    return machine.path / f"{CONSOLE}.in"


class Console:
    """A dialogue with the console. `expect` searches the output since the last match, or since the dialogue began."""

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
                f"the console of {self.machine.name} is in use by a program other than rumplab; end that first"
            )
        else:
            self._line = open_line(self.machine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._line.close()
        if self._lock is not None:
            os.close(self._lock)

    def send(self, text: str) -> None:
        """Sends `text` as input. RumplabError when the console is closed."""
        if self._line is None:
            raise RuntimeError("the console isn't open")
        try:
            self._line.sendall(text.encode())
        except OSError as error:
            raise RumplabError(f"the console of {self.machine.name} is gone: {error.strerror}") from error

    def said(self) -> str:
        """The console's output since the last match; of a long output, the last MOST bytes."""
        self._drain()
        with self.machine.serial_log.open("rb") as log:
            # A guest may print more than fits in memory; then only the end is searched.
            self.position = max(self.position, log.seek(0, os.SEEK_END) - MOST)
            log.seek(self.position)
            # Latin-1 has one character per byte, so positions in the text are positions in the file.
            return log.read(MOST).decode("latin-1")

    def tail(self) -> str:
        """The end of all output so far."""
        return end(self.machine.serial_log).decode("latin-1")

    def expect(self, pattern: str, seconds: float) -> str | None:
        """The output up to the end of the first match of `pattern`; None when nothing matches within `seconds`."""
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
        """Reads and discards what the socket delivers; a full socket would block the guest."""
        if self._line is not None and self._lock is not None:
            while select.select([self._line], [], [], 0)[0] and self._line.recv(CHUNK):
                pass


def open_line(machine: Machine) -> socket.socket:
    """A socket that is connected to the console. RumplabError if it can't be opened."""
    if machine.recording:
        # Imported only here, since few guests are recorded.
        from rumplab.guest import recorded_console

        return recorded_console.connect(machine)
    return connect(socket_path(machine, CONSOLE), socket.SOCK_STREAM, machine)


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
    """The last CONTEXT bytes of the log, starting at the beginning of a line."""
    with log.open("rb") as handle:
        handle.seek(max(handle.seek(0, os.SEEK_END) - CONTEXT, 0))
        text = handle.read()
    return text if len(text) < CONTEXT else text.partition(b"\n")[2]
