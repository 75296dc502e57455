"""Just enough of the QEMU Machine Protocol: commands over its UNIX socket, bounded in time."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rumplab.host.answers import UNFIT, typed

CHUNK = 1 << 16
# The longest line taken. What the monitor says of a screen's memory has a tenth of that.
LONGEST = 4 << 20
# Of those that nobody asks for, the latest are kept.
MOST_EVENTS = 256


class QmpError(Exception):
    """The machine did not answer, or refused."""


class Refused(QmpError):
    """The machine answered that it doesn't do it."""


class Session:
    """A connection, for several commands. QmpError when QEMU refuses one, or nobody answers within `timeout` seconds
    each. QEMU serves one client at a time. `connected` is a connection that is there already."""

    def __init__(self, path: Path, timeout: float = 2.0, connected: socket.socket | None = None) -> None:
        self._path, self._timeout = path, timeout
        self._deadline = time.monotonic() + timeout
        self._connected = connected is not None
        self._socket = connected or socket.socket(socket.AF_UNIX)
        # What has come of the next lines.
        self._rest = bytearray()
        # What the machine told while another answer was waited for.
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)

    def __enter__(self) -> Session:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _open(self) -> None:
        self._socket.settimeout(self._timeout)
        try:
            if not self._connected:
                self._socket.connect(str(self._path))
            self._reply(self._deadline, "QMP")
            self._send("qmp_capabilities")
            self._reply(self._deadline, "return")
        except OSError as error:
            raise QmpError(f"{self._path}: {error}") from error

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Runs one command and returns its ``return`` value; it may take `timeout` seconds, if that is given."""
        try:
            self._send(command, arguments)
            return self._reply(time.monotonic() + (timeout or self._timeout), "return")
        except OSError as error:
            raise QmpError(f"{self._path}: {error}") from error

    def event(self, seconds: float) -> dict[str, Any] | None:
        """The next thing that the machine tells by itself, or None when that is nothing within `seconds`. QmpError when
        the machine has ended."""
        deadline = time.monotonic() + seconds
        try:
            while not self._events:
                self._message(deadline)
            return self._events.popleft()
        except socket.timeout:
            return None
        except OSError as error:
            raise QmpError(f"{self._path}: {error}") from error

    def give(self, name: str, descriptor: int) -> None:
        """Passes an open file to QEMU, which knows it by `name` from then on."""
        message = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode() + b"\n"
        try:
            socket.send_fds(self._socket, [message], [descriptor])
            self._reply(time.monotonic() + self._timeout, "return")
        except OSError as error:
            raise QmpError(f"{self._path}: {error}") from error

    def monitor(self, line: str) -> str:
        """What QEMU's monitor for people says to `line`."""
        return text(self.execute("human-monitor-command", {"command-line": line}))

    def status(self) -> str:
        """QEMU's run state."""
        return state(self.execute("query-status"))

    def _send(self, command: str, arguments: Mapping[str, Any] | None = None) -> None:
        message = {"execute": command, "arguments": dict(arguments)} if arguments else {"execute": command}
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _reply(self, deadline: float, key: str) -> Any:
        """The value under `key` in the next message that has it; events in between are kept."""
        while True:
            message = self._message(deadline)
            try:
                refusal = None if key in message or "error" not in message else message["error"].get("desc", "refused")
            except UNFIT as error:
                raise unknown(error) from error
            if refusal is not None:
                raise Refused(str(refusal))
            if key in message:
                return message[key]

    def _message(self, deadline: float) -> dict[str, Any]:
        """The next message; an event is kept for who asks."""
        try:
            message: dict[str, Any] = typed(json.loads(self._line(deadline)), dict)
        except UNFIT as error:
            raise unknown(error) from error
        if "event" in message:
            self._events.append(message)
        return message

    def _line(self, deadline: float) -> bytes:
        """The next line, however slowly it comes."""
        at = self._rest.find(b"\n")
        while at < 0:
            if len(self._rest) > LONGEST:
                raise QmpError(f"the machine sent more than {LONGEST} bytes that are no message")
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            piece = self._socket.recv(CHUNK)
            if not piece:
                raise QmpError("the machine closed the connection")
            at = piece.find(b"\n")
            at += len(self._rest) if at >= 0 else 0
            self._rest += piece
            if at < 0 and time.monotonic() > deadline:
                raise socket.timeout("timed out")
        line = bytes(self._rest[:at])
        del self._rest[: at + 1]
        return line


def execute(path: Path, command: str, timeout: float = 2.0, arguments: Mapping[str, Any] | None = None) -> Any:
    """Connects, runs one command and returns its ``return`` value; see Session."""
    with Session(path, timeout) as session:
        return session.execute(command, arguments)


def status(path: Path, timeout: float = 2.0) -> str:
    """QEMU's run state; see Session."""
    return state(execute(path, "query-status", timeout))


def state(answer: Any) -> str:
    """The run state in the answer to query-status."""
    try:
        return text(answer["status"])
    except UNFIT as error:
        raise unknown(error) from error


def text(answer: Any) -> str:
    """`answer`, if it is a text."""
    try:
        return str(typed(answer, str))
    except UNFIT as error:
        raise unknown(error) from error


def unknown(error: Exception) -> QmpError:
    return QmpError(f"the machine answers in a form that isn't known ({type(error).__name__}: {error})")
