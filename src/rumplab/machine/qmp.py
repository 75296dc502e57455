"""A client of the QEMU Machine Protocol (QMP) on a UNIX socket. Each command has a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rumplab.host.answers import MALFORMED, typed

CHUNK = 1 << 16
# The longest line that is accepted, in bytes. The monitor's answer with a screen's memory has a tenth of that.
LONGEST = 4 << 20
# The number of events that are kept for event(); the latest ones.
MOST_EVENTS = 256
WAIT_SECONDS = 0.2


class QmpError(Exception):
    """QEMU did not answer, or refused the command."""


class Refused(QmpError):
    """QEMU answered the command with an error."""


class Session:
    """A connection for several commands, on the socket `path` or on `connected`, a connection that exists already.

    Its methods raise Refused if QEMU answers with an error, and another QmpError if a command gets no answer within
    `timeout` seconds. QEMU serves one client at a time.
    """

    def __init__(self, path: Path, timeout: float = 2.0, connected: socket.socket | None = None) -> None:
        self._path, self._timeout = path, timeout
        self._deadline = time.monotonic() + timeout
        self._connected = connected is not None
        self._socket = connected or socket.socket(socket.AF_UNIX)
        # The bytes received after the last complete line.
        self._rest = bytearray()
        # The events that arrived while this session waited for an answer.
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        # The last command's id. QEMU sends an answer that an earlier client didn't wait for to the next one.
        self._id = ""

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
        """Executes one command and returns the value of ``return`` in the answer. `timeout` is in seconds; the default
        is the session's."""
        try:
            self._send(command, arguments)
            return self._reply(time.monotonic() + (timeout or self._timeout), "return")
        except OSError as error:
            raise QmpError(f"{self._path}: {error}") from error

    def execute_long(self, command: str, arguments: Mapping[str, Any], wait: Callable[[], None]) -> Any:
        """Executes a command that may take long, and returns the value of ``return`` in the answer. Calls `wait` every
        WAIT_SECONDS until the answer arrives; an exception of `wait` ends the wait, but not the command."""
        try:
            self._send(command, arguments)
            while True:
                try:
                    return self._reply(time.monotonic() + WAIT_SECONDS, "return")
                except socket.timeout:
                    wait()
        except OSError as error:
            raise QmpError(f"{self._path}: {error}") from error

    def event(self, seconds: float) -> dict[str, Any] | None:
        """Returns the next event; None if none arrives within `seconds`. QmpError if the machine has ended."""
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
        """Passes the open file `descriptor` to QEMU, whose commands then accept `name` for it."""
        try:
            socket.send_fds(self._socket, [self._message_of("getfd", {"fdname": name})], [descriptor])
            self._reply(time.monotonic() + self._timeout, "return")
        except OSError as error:
            raise QmpError(f"{self._path}: {error}") from error

    def monitor(self, line: str) -> str:
        """Executes `line` in QEMU's human monitor and returns what that prints."""
        return text(self.execute("human-monitor-command", {"command-line": line}))

    def status(self) -> str:
        """Returns QEMU's run state."""
        return state(self.execute("query-status"))

    def _send(self, command: str, arguments: Mapping[str, Any] | None = None) -> None:
        self._socket.sendall(self._message_of(command, arguments))

    def _message_of(self, command: str, arguments: Mapping[str, Any] | None = None) -> bytes:
        """Returns the bytes of a command with a new id."""
        self._id = os.urandom(8).hex()
        message: dict[str, Any] = {"execute": command, "id": self._id}
        if arguments:
            message["arguments"] = dict(arguments)
        return json.dumps(message).encode() + b"\n"

    def _reply(self, deadline: float, key: str) -> Any:
        """Returns the value of `key` in the next message that has this key. Keeps events for event(), and skips answers
        to another client's command."""
        while True:
            message = self._message(deadline)
            if message.get("id", self._id) != self._id:
                continue
            try:
                refusal = None if key in message or "error" not in message else message["error"].get("desc", "refused")
            except MALFORMED as error:
                raise unknown(error) from error
            if refusal is not None:
                raise Refused(str(refusal))
            if key in message:
                return message[key]

    def _message(self, deadline: float) -> dict[str, Any]:
        """Returns the next message. If it is an event, keeps it for event()."""
        try:
            message: dict[str, Any] = typed(json.loads(self._line(deadline)), dict)
        except MALFORMED as error:
            raise unknown(error) from error
        if "event" in message:
            self._events.append(message)
        return message

    def _line(self, deadline: float) -> bytes:
        """Returns the next line, even if it arrives in several pieces. socket.timeout at `deadline`."""
        at = self._rest.find(b"\n")
        while at < 0:
            if len(self._rest) > LONGEST:
                raise QmpError(f"the machine sent more than {LONGEST} bytes without a line end")
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
    """Connects, executes one command and returns the value of ``return`` in the answer. Raises as Session does."""
    with Session(path, timeout) as session:
        return session.execute(command, arguments)


def status(path: Path, timeout: float = 2.0) -> str:
    """Connects and returns QEMU's run state. Raises as Session does."""
    return state(execute(path, "query-status", timeout))


def state(answer: Any) -> str:
    """Returns the run state in `answer`, the answer to query-status. QmpError if it has none."""
    try:
        return text(answer["status"])
    except MALFORMED as error:
        raise unknown(error) from error


def text(answer: Any) -> str:
    """Returns `answer` if it is a string; QmpError otherwise."""
    try:
        return str(typed(answer, str))
    except MALFORMED as error:
        raise unknown(error) from error


def unknown(error: Exception) -> QmpError:
    """Returns the error for an answer that could not be parsed."""
    return QmpError(f"the machine's answer has an unknown format ({type(error).__name__}: {error})")
