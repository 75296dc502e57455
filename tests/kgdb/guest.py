"""A guest: QEMU with the console on the first serial port and kgdb on the second. Each port is a socket.

It needs Python 3.9, the standard library and the tool, because it also runs on provisioned hosts.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rumplab.machine import qmp

LINE = "com1"
SECONDS = 30.0


# The kernel prints this when it waits for a debugger.
WAITING = "kgdb waiting..."


class Guest:
    """A running kernel, a context manager that kills it. Its sockets are in `directory`, whose path must be short."""

    def __init__(
        self,
        program: Path,
        directory: Path,
        flags: str = "-d",
        qemu: str = "qemu-system-x86_64",
        extra: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.line, self.control = directory / "com1.sock", directory / "qmp.sock"
        self.terminal, self.log = directory / "com0.sock", directory / "com0.log"
        argv = [qemu, "-machine", "pc,accel=tcg", "-m", "128", "-smp", "1", "-display", "none", "-nic", "none"]
        argv += ["-kernel", str(program), "-append", flags]
        for name, path, more in (("com0", self.terminal, f",logfile={self.log}"), (LINE, self.line, "")):
            argv += ["-chardev", f"socket,id={name},path={path},server=on,wait=off{more}", "-serial", f"chardev:{name}"]
        argv += ["-qmp", f"unix:{self.control},server=on,wait=off", *extra]
        self.keyboard: socket.socket | None = None
        self.heard = b""
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        if self.keyboard is not None:
            self.keyboard.close()

    def said(self) -> str:
        """Return the output of the console so far."""
        if self.keyboard is None:
            said = self.log.read_bytes() if self.log.exists() else b""
        else:
            # Use the client's data, not the log. When a client doesn't read, QEMU waits and sends the data again, and
            # the log then has this data twice.
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while data := self.keyboard.recv(4096):
                    self.heard += data
            said = self.heard
        return said.decode("utf-8", "replace").replace("\r\n", "\n")

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until `text` occurs `count` times in the console's output. Raise AssertionError after SECONDS."""
        deadline = time.monotonic() + SECONDS
        while self.said().count(text) < count:
            assert time.monotonic() < deadline, f"no {text!r} on the console: {self.said()!r}"
            assert self.process.poll() is None, f"QEMU has ended: {self.said()!r}"
            time.sleep(0.02)

    def type(self, *lines: str) -> None:
        """Type lines at the console: each line after the first waits for the prompt that follows the one before."""
        if self.keyboard is None:
            self.heard = self.log.read_bytes()
            # The socket stays open, because QEMU drops data that it hasn't delivered when a client disconnects.
            self.keyboard = socket.socket(socket.AF_UNIX)
            self.keyboard.connect(str(self.terminal))
            self.keyboard.setblocking(False)
        for line in lines:
            before = self.said().count("# ")
            self.keyboard.sendall(line.encode() + b"\r")
            if line is not lines[-1]:
                self.wait_for("# ", before + 1)

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command, and return its result."""
        return qmp.execute(self.control, command, arguments=arguments)

    def send_break(self) -> None:
        """Send a BREAK on kgdb's serial line."""
        self.qmp("chardev-send-break", id=LINE)

    def ended(self) -> int:
        """Wait until QEMU ends, and return its exit status."""
        return self.process.wait(SECONDS)
