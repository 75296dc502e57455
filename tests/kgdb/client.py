"""One end of GDB's remote serial protocol, by the byte, on a UNIX socket."""

from __future__ import annotations

import socket
from pathlib import Path

from rsp.server import packet

SECONDS = 20.0


class Client:
    """A connection to a stub; close it, or use it as a context."""

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
        """The next byte; TimeoutError when none comes, AssertionError at the end of the connection."""
        received = self.socket.recv(1)
        assert received, "the guest closed the line"
        return received

    def silent(self, seconds: float = 0.5) -> bool:
        """Whether nothing comes for that long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(SECONDS)
        return False

    def reply(self) -> str:
        """The data of the next packet, whose checksum must be right. It isn't acknowledged."""
        while self.byte() != b"$":
            pass
        data = b""
        while (character := self.byte()) != b"#":
            data += character
        digits = self.byte() + self.byte()
        assert packet(data.decode("ascii"))[-2:] == digits
        return data.decode("ascii")

    def ask(self, data: str) -> str:
        """Send a packet, have it acknowledged, and return and acknowledge the reply."""
        self.send(packet(data))
        assert self.byte() == b"+"
        answer = self.reply()
        self.send(b"+")
        return answer
