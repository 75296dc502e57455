"""A server of GDB's remote serial protocol for a scripted machine: a list of stops, each with its registers.

GDB's manual, appendix "Remote Protocol", defines it. A packet is `$DATA#CK`, where CK is the sum of the bytes of DATA
modulo 256 in two hex digits; the receiver answers `+` or `-`. The server needs Python 3.9 and the standard library,
because it runs where the tested debugger runs.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Mapping, Sequence

STOPPED = "S05"
UNKNOWN = ""
ACCEPTED = "OK"


@dataclasses.dataclass(frozen=True)
class Stop:
    """The replies of the machine at one stop: to 'g' in hex digits, and to 'p' by register number."""

    g: str
    p: Mapping[int, str] = dataclasses.field(default_factory=dict)


def checksum(data: bytes) -> bytes:
    """Return a packet's checksum: two hex digits."""
    return b"%02x" % (sum(data) % 256)


def packet(data: str) -> bytes:
    """Return `data` framed as a packet."""
    raw = data.encode("ascii")
    return b"$" + raw + b"#" + checksum(raw)


class Machine:
    """A scripted machine. When GDB resumes it, it goes to its next stop. `log` has the data of all received packets."""

    def __init__(self, stops: Sequence[Stop]) -> None:
        if not stops:
            raise ValueError("a machine needs at least one stop")
        self.stops = list(stops)
        self.at = 0
        self.log: list[str] = []

    def answer(self, request: str) -> str | None:
        """Return the reply to one packet's data, or None if there is no reply and the connection ends."""
        self.log.append(request)
        kind = request[:1]
        if kind == "?":
            return STOPPED
        if kind == "g":
            return self.stops[self.at].g
        if kind == "p":
            return self.stops[self.at].p.get(int(request[1:], 16), UNKNOWN)
        if kind == "m":
            return "00" * int(request[1:].split(",")[1], 16)
        if kind in ("c", "s"):
            self.at = min(self.at + 1, len(self.stops) - 1)
            return STOPPED
        if kind in ("D", "G", "H"):
            return ACCEPTED
        if request == "qAttached":
            # 1 means that GDB attached to an existing process, so that GDB detaches at its end instead of killing it.
            return "1"
        return None if kind == "k" else UNKNOWN


class Server:
    """A context manager that serves one connection to a machine, on a port of 127.0.0.1 and in a thread."""

    def __init__(self, machine: Machine, timeout: float = 30.0) -> None:
        self.machine, self.timeout = machine, timeout
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(timeout)
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self.thread.join(self.timeout)

    def _serve(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(self.timeout)
            try:
                self._converse(connection)
            except OSError:
                return

    def _converse(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        last = b""
        while True:
            byte = stream.read(1)
            if not byte:
                return
            if byte == b"-":
                connection.sendall(last)
            if byte != b"$":
                continue
            data = bytearray()
            while (byte := stream.read(1)) not in (b"#", b""):
                data += byte
            if stream.read(2) != checksum(bytes(data)):
                connection.sendall(b"-")
                continue
            reply = self.machine.answer(data.decode("latin-1"))
            if reply is None:
                return
            last = packet(reply)
            connection.sendall(b"+" + last)
