"""The relay between GDB and a serial line: when GDB closes its end, and when the kernel answers late."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rumplab.gdb import pipe

SECONDS = 20.0
# Longer than the silence after which the relay assumes that the kernel has sent everything.
SLOWLY = 5 * pipe.QUIET_SECONDS


class Line:
    """Both ends of a relay: `gdb` is a socket in place of GDB's pipe, `kernel` is the guest's serial line."""

    def __init__(self, directory: Path) -> None:
        path = directory / "com1.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(SECONDS)
            listener.bind(str(path))
            listener.listen(1)
            self.gdb, inside = socket.socketpair()
            with inside:
                self.process = subprocess.Popen(pipe.argv(str(path)), stdin=inside.fileno(), stdout=inside.fileno())
            self.kernel, _ = listener.accept()
        for end in (self.gdb, self.kernel):
            end.settimeout(SECONDS)

    def ask(self, packet: bytes) -> None:
        """Send a packet from GDB, and acknowledge it from the kernel."""
        self.gdb.sendall(packet)
        self.takes(packet)
        self.kernel.sendall(b"+")
        assert self.gdb.recv(1) == b"+"

    def takes(self, data: bytes) -> None:
        """Read `data` at the kernel's end, and nothing else."""
        read = b""
        while len(read) < len(data):
            more = self.kernel.recv(len(data) - len(read))
            assert more, f"the line was closed after {read!r}"
            read += more
        assert read == data


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(SECONDS)
        made.gdb.close()
        made.kernel.close()


def test_a_late_answer_to_a_kill_is_acknowledged(line: Line) -> None:
    """Without the acknowledgement the kernel waits for ever, and GDB has ended."""
    line.ask(b"$k#6b")
    line.gdb.close()
    for part in (b"$O", b"K#9", b"a"):
        time.sleep(SLOWLY)
        line.kernel.sendall(part)
    line.takes(b"+")
    assert line.process.wait(SECONDS) == 0


@pytest.mark.parametrize("packet", [b"$c#63", b"$s#73", b"$c100#f4"])
def test_a_running_kernel_is_not_waited_for(line: Line, packet: bytes) -> None:
    line.ask(packet)
    began = time.monotonic()
    line.gdb.close()
    assert line.process.wait(SECONDS) == 0
    assert time.monotonic() - began < pipe.FINISH_SECONDS


def test_the_relay_ends_at_once_when_the_kernel_has_answered(line: Line) -> None:
    line.ask(b"$D#44")
    line.kernel.sendall(b"$OK#9a")
    line.gdb.sendall(b"+")
    line.takes(b"+")
    began = time.monotonic()
    line.gdb.close()
    assert line.process.wait(SECONDS) == 0
    assert time.monotonic() - began < pipe.FINISH_SECONDS


def test_a_kernel_that_never_answers_is_given_up(line: Line) -> None:
    line.ask(b"$k#6b")
    line.gdb.close()
    assert line.process.wait(SECONDS) == 0
    assert line.kernel.recv(1) == b""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports how much the other end has read")
def test_the_line_is_held_until_the_machine_has_taken_the_last_byte(line: Line) -> None:
    """When its client closes the socket, QEMU drops the bytes that it hasn't read."""
    line.ask(b"$k#6b")
    line.kernel.sendall(b"$OK#9a")
    line.gdb.close()
    # As if QEMU's other threads had the processor for a while.
    time.sleep(SLOWLY)
    assert line.process.poll() is None
    line.takes(b"+")
    assert line.process.wait(SECONDS) == 0


def test_the_relay_serves_the_kernel_though_gdb_left_data_unread(line: Line) -> None:
    """GDB ends with unread data, so the relay's socket is reset."""
    line.ask(b"$k#6b")
    line.kernel.sendall(b"$O")
    assert select.select([line.gdb], [], [], SECONDS)[0]
    line.gdb.close()
    time.sleep(SLOWLY)
    line.kernel.sendall(b"K#9a")
    line.takes(b"+")
    assert line.process.wait(SECONDS) == 0
