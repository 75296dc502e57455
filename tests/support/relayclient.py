"""A client of the relay to a recording, which sends packets of GDB's protocol."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from rumplab.gdb import rsp
from rumplab.gdb.rsp import Packet

SECONDS = 60.0
REGISTERS = 17


class RelayClient:
    """Starts the relay with the command `argv`; its temporary files are in `temporary`."""

    def __init__(self, argv: list[str], temporary: Path | None = None) -> None:
        environment = {**os.environ, "TMPDIR": str(temporary)} if temporary else None
        self.socket, other = socket.socketpair()
        with other:
            self.process = subprocess.Popen(
                argv, stdin=other.fileno(), stdout=other.fileno(), stderr=subprocess.PIPE, env=environment
            )
        self._parser = rsp.Parser()
        self._packets: list[bytes] = []
        # The text that the relay prints in GDB.
        self.said = ""

    def __enter__(self) -> RelayClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            if self.process.stderr is not None:
                self.process.stderr.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(rsp.frame(rsp.escape(data)))

    def interrupt(self) -> None:
        self.socket.sendall(bytes((rsp.INTERRUPT,)))

    def receive(self, seconds: float = SECONDS) -> bytes:
        """Returns the next packet that isn't text to print."""
        deadline = time.monotonic() + seconds
        while True:
            while self._packets:
                packet = self._packets.pop(0)
                if packet[:1] != b"O" or packet == b"OK":
                    return packet
                self.said += bytes.fromhex(packet[1:].decode()).decode()
            left = deadline - time.monotonic()
            assert left > 0, f"no answer in {seconds} s"
            if select.select([self.socket], [], [], left)[0]:
                data = self.socket.recv(1 << 16)
                assert data, "the relay has gone"
                self._packets += [event.data for event in self._parser.feed(data) if isinstance(event, Packet)]
                self.socket.sendall(b"+")

    def ask(self, data: bytes, seconds: float = SECONDS) -> bytes:
        self.send(data)
        return self.receive(seconds)

    def order(self, text: str) -> str:
        """Returns the answer to `monitor TEXT`."""
        answer = self.ask(b"qRcmd," + text.encode().hex().encode())
        return "" if answer == b"OK" else bytes.fromhex(answer.decode()).decode()

    @property
    def position(self) -> int:
        return int(self.order("rr where").split()[1])

    def goto(self, position: int | str) -> bytes:
        assert self.order(f"rr goto {position}") == ""
        return self.ask(b"vCont;s:1")

    def registers(self) -> tuple[int, ...]:
        """Returns the general registers of x86-64, and the instruction pointer."""
        digits = self.ask(b"g")
        raw = bytes.fromhex(digits[: REGISTERS * 16].decode())
        return tuple(int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8))
