"""Just enough of the QEMU Machine Protocol: commands over its UNIX socket, bounded in time."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class QmpError(Exception):
    """The machine did not answer, or refused."""


class Refused(QmpError):
    """The machine answered that it doesn't do it."""


class Session:
    """A connection, for several commands. QmpError when QEMU refuses one, or nobody answers within `timeout` seconds
    each. QEMU serves one client at a time."""

    def __init__(self, path: Path, timeout: float = 2.0) -> None:
        self._path, self._timeout = path, timeout
        self._deadline = time.monotonic() + timeout
        self._socket = socket.socket(socket.AF_UNIX)
        self._stream: Any = None

    def __enter__(self) -> Session:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self._stream is not None:
                self._stream.close()
        self._socket.close()

    def _open(self) -> None:
        self._socket.settimeout(self._timeout)
        try:
            self._socket.connect(str(self._path))
            self._stream = self._socket.makefile("rwb")
            _reply(self._stream, self._socket, self._deadline, "QMP")
            _send(self._stream, "qmp_capabilities")
            _reply(self._stream, self._socket, self._deadline, "return")
        except (OSError, ValueError) as error:
            raise QmpError(f"{self._path}: {error}") from error

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Runs one command and returns its ``return`` value."""
        try:
            _send(self._stream, command, arguments)
            return _reply(self._stream, self._socket, time.monotonic() + self._timeout, "return")
        except (OSError, ValueError) as error:
            raise QmpError(f"{self._path}: {error}") from error

    def monitor(self, line: str) -> str:
        """What QEMU's monitor for people says to `line`."""
        said: str = self.execute("human-monitor-command", {"command-line": line})
        return said


def execute(path: Path, command: str, timeout: float = 2.0, arguments: Mapping[str, Any] | None = None) -> Any:
    """Connects, runs one command and returns its ``return`` value; see Session."""
    with Session(path, timeout) as session:
        return session.execute(command, arguments)


def _send(stream: Any, command: str, arguments: Mapping[str, Any] | None = None) -> None:
    message = {"execute": command, "arguments": dict(arguments)} if arguments else {"execute": command}
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _reply(stream: Any, sock: socket.socket, deadline: float, key: str) -> Any:
    """The value under `key` in the next message that has it; events in between are passed over."""
    while True:
        sock.settimeout(max(deadline - time.monotonic(), 0.01))
        line = stream.readline()
        if not line:
            raise QmpError("the machine closed the connection")
        message = json.loads(line)
        if key in message:
            return message[key]
        if "error" in message:
            raise Refused(message["error"].get("desc", "refused"))
