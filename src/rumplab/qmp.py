"""Just enough of the QEMU Machine Protocol: one command over its UNIX socket, bounded in time."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class QmpError(Exception):
    """The machine did not answer, or refused."""


def execute(path: Path, command: str, timeout: float = 2.0, arguments: Mapping[str, Any] | None = None) -> Any:
    """Connects, runs one command and returns its ``return`` value.

    QmpError when QEMU refuses, or nobody answers within `timeout` seconds. QEMU serves one client at a time.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(str(path))
            with sock.makefile("rwb") as stream:
                _reply(stream, sock, deadline, "QMP")
                _send(stream, "qmp_capabilities")
                _reply(stream, sock, deadline, "return")
                _send(stream, command, arguments)
                return _reply(stream, sock, deadline, "return")
        except (OSError, ValueError) as error:
            raise QmpError(f"{path}: {error}") from error


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
            raise QmpError(message["error"].get("desc", "refused"))
