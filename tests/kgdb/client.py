"""A client of GDB's remote serial protocol on a UNIX socket, which reads single bytes and packets."""

from __future__ import annotations

import socket
from pathlib import Path

from rsp.server import packet

SECONDS = 20.0


class Client:
    """A connection to a stub. Use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def byte(self) -> bytes:
        """Return the next byte. Raise TimeoutError after SECONDS, AssertionError at the end of the connection."""
        received = self.socket.recv(1)
        assert received, "the guest closed the serial line"
        return received

    def silent(self, seconds: float = 0.5) -> bool:
        """Return whether no byte arrives for that long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(SECONDS)
        return False

    def reply(self) -> str:
        """Return the data of the next packet, not acknowledged. Raise AssertionError if its checksum is wrong."""
        while self.byte() != b"$":
            pass
        data = b""
        while (character := self.byte()) != b"#":
            data += character
        digits = self.byte() + self.byte()
        assert packet(data.decode("ascii"))[-2:] == digits
        return data.decode("ascii")

    def ask(self, data: str) -> str:
        """Send a packet, check that the stub acknowledges it, and return the reply, acknowledged."""
        self.send(packet(data))
        assert self.byte() == b"+"
        answer = self.reply()
        self.send(b"+")
        return answer
