"""The wire between GDB and a serial line, from a GDB that hangs up to a kernel that takes its time."""

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
# Longer than the silence by which the wire takes it that all has come.
SLOWLY = 5 * pipe.QUIET_SECONDS


class Line:
    """Both ends of a wire: `gdb` is the socket that GDB has instead of a pipe, `kernel` the guest's serial line."""

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
        """GDB sends a packet, and the kernel acknowledges it."""
        self.gdb.sendall(packet)
        self.takes(packet)
        self.kernel.sendall(b"+")
        assert self.gdb.recv(1) == b"+"

    def takes(self, data: bytes) -> None:
        """The kernel reads `data`, neither less nor more."""
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


def test_the_answer_to_a_kill_is_acknowledged_however_late(line: Line) -> None:
    """Else the kernel waits for it forever: GDB is gone by then."""
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


def test_a_kernel_that_has_answered_is_left_at_once(line: Line) -> None:
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the other end has read")
def test_the_line_is_held_until_the_machine_has_taken_the_last_byte(line: Line) -> None:
    """QEMU drops what it hasn't read when its client hangs up."""
    line.ask(b"$k#6b")
    line.kernel.sendall(b"$OK#9a")
    line.gdb.close()
    # The machine's other threads have the processor for a while.
    time.sleep(SLOWLY)
    assert line.process.poll() is None
    line.takes(b"+")
    assert line.process.wait(SECONDS) == 0


def test_what_gdb_has_not_read_is_no_reason_to_leave_the_kernel_alone(line: Line) -> None:
    """Its socket is reset then."""
    line.ask(b"$k#6b")
    line.kernel.sendall(b"$O")
    assert select.select([line.gdb], [], [], SECONDS)[0]
    line.gdb.close()
    time.sleep(SLOWLY)
    line.kernel.sendall(b"K#9a")
    line.takes(b"+")
    assert line.process.wait(SECONDS) == 0
