"""A client of QEMU's debug stub. Each wait has a time limit."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from rumplab.gdb import rsp
from rumplab.gdb.rsp import Packet
from rumplab.replay.faults import Stuck

CHUNK = 1 << 16
ANSWER_SECONDS = 10.0


class Hangup(Exception):
    """The stub has closed its connection."""


class Stub:
    """A connection to the stub on the UNIX socket `path`."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_SECONDS)
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._parser = rsp.Parser()
        self._packets: deque[bytes] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def send(self, data: bytes) -> None:
        """Escapes `data` and sends it as a packet."""
        self._write(rsp.frame(rsp.escape(data)))

    def interrupt(self) -> None:
        """Stops the guest, as Ctrl-C in GDB does."""
        self._write(bytes((rsp.INTERRUPT,)))

    def receive(self, seconds: float, also: Sequence[int] = ()) -> bytes | None:
        """Returns the data of the next packet. None if none arrives within `seconds`, or if one of the descriptors
        `also` has input."""
        deadline = time.monotonic() + seconds
        while not self._packets:
            left = max(deadline - time.monotonic(), 0)
            readable = select.select([self.fileno(), *also], [], [], left)[0]
            if self.fileno() in readable:
                self._take()
            elif readable or not left:
                return None
        return self._packets.popleft()

    def ask(self, data: bytes, seconds: float = ANSWER_SECONDS) -> bytes:
        """Sends a packet and returns the answer. Stuck if none arrives within `seconds`."""
        self.send(data)
        answer = self.receive(seconds)
        if answer is None:
            raise Stuck(f"QEMU's stub gave no answer within {seconds:.0f} s")
        return answer

    def _take(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except OSError as error:
            raise Hangup from error
        if not data:
            raise Hangup
        for event in self._parser.feed(data):
            if isinstance(event, Packet):
                self._packets.append(event.data)
                self._write(b"+")

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Hangup from error
