"""One QEMU that repeats a recording, held by QMP and by its debug stub.

It goes forwards only. Its position is the number of instructions that have been executed. No wait is without an end: a
QEMU that gives no answer, or gets no further, is Stuck, and whoever uses it takes another.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rumplab.host import child_environment
from rumplab.machine import qmp
from rumplab.recording import command
from rumplab.recording.record import Recording
from rumplab.replay.faults import Ended, Stuck
from rumplab.replay.stub import ANSWER_SECONDS, Hangup, Stub

START_SECONDS = 20.0
POLL_SECONDS = 0.002
# How often QEMU is asked whether it gets on, and for how long it may stand. A guest that sleeps for a minute stands for
# as long: QEMU lets the time pass.
LOOK_SECONDS = 0.5
STALL_SECONDS = 120.0
END_SECONDS = 5.0
CONSOLE, CONTROL, STUB, OUTPUT = "console", "qmp.sock", "gdb.sock", "qemu.log"
# What begins the report of a stop.
STOPS = (b"T", b"S")
# The instruction pointer among the registers of x86-64.
PC = b"p10"
PR_SET_PDEATHSIG = 1
Opened = TypeVar("Opened")


class Listener:
    """Whoever waits may be called: `fileno` can be read then, and `heard` raises Interrupted if it was meant so."""

    def filenos(self) -> tuple[int, ...]:
        return ()

    def heard(self) -> None:
        """Takes what can be read."""

    @contextlib.contextmanager
    def passing(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """While this lasts, whoever wants the wait to end calls `interrupt`, which stops the guest."""
        yield


NOBODY = Listener()


class Player:
    """A QEMU, stopped before the first instruction of `recording`. `directory` is empty and its own; the path of a
    socket in it is short enough. Use it in a `with` statement, or call `close`."""

    def __init__(self, recording: Recording, directory: Path, listener: Listener = NOBODY) -> None:
        self.directory, self._listener = directory, listener
        directory.mkdir(mode=0o700)
        argv = command.replay_argv(
            recording.replay,
            str(directory / CONSOLE),
            control=str(directory / CONTROL),
            stub=str(directory / STUB),
            held=True,
        )
        with (directory / OUTPUT).open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                env=child_environment.of(child_environment.QEMU),
                cwd=recording.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=0o177,
                preexec_fn=dies_with_us(),
            )
        try:
            self._control = self._opened_control()
            self.stub = self._opened_stub()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends QEMU."""
        if hasattr(self, "stub"):
            self.stub.close()
        if hasattr(self, "_control"):
            self._control.__exit__()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)

    @property
    def console(self) -> Path:
        return self.directory / CONSOLE

    @property
    def position(self) -> int:
        """The number of instructions that have been executed."""
        with self._answering():
            return int(self._control.execute("query-replay")["icount"])

    @property
    def pc(self) -> int:
        """The address of the next instruction."""
        return int.from_bytes(bytes.fromhex(self.ask(PC).decode()), "little")

    def ask(self, data: bytes) -> bytes:
        """The stub's answer to a packet."""
        with self._answering():
            return self.stub.ask(data)

    def go(self, position: int) -> None:
        """On to `position`, without a stop before: no points may be set."""
        now = self.position
        if position < now:
            raise ValueError(f"{position} is before {now}")
        if position > now:
            self.hold_at(position)
            self.resume(b"c")
            self.stop()
            reached = self.position
            if reached != position:
                raise Stuck(f"QEMU stopped at instruction {reached} on its way to {position}")

    def hold_at(self, position: int) -> None:
        """Has QEMU stop once at `position`."""
        with self._answering():
            self._control.execute("replay-break", {"icount": position})

    def resume(self, packet: bytes) -> None:
        with self._answering():
            self.stub.send(packet)

    def interrupt(self) -> None:
        """Has QEMU stop, which `stop` reports."""
        with self._answering():
            self.stub.interrupt()

    def stop(self, stall: float = STALL_SECONDS) -> bytes:
        """Waits for the next stop, which is what the stub says then. Ended, Stuck, or Interrupted by the listener."""
        last, since = -1, time.monotonic()
        while True:
            with self._answering():
                said = self.stub.receive(LOOK_SECONDS, self._listener.filenos())
            if said is not None and said[:1] in STOPS:
                return said
            self._listener.heard()
            now = self.position
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > stall:
                raise Stuck(f"QEMU has stood at instruction {now} for {stall:.0f} s")

    def insert(self, points: Iterable[bytes]) -> None:
        """Sets break- and watchpoints, each as GDB's packet Z has it."""
        for point in points:
            if self.ask(b"Z" + point) != b"OK":
                raise Stuck(f"QEMU refuses the point {point.decode(errors='replace')}")

    def remove(self, points: Iterable[bytes]) -> None:
        for point in points:
            self.ask(b"z" + point)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Makes of a lost connection what has become of QEMU."""
        try:
            yield
        except (Hangup, qmp.QmpError) as error:
            raise self._fate(error) from error

    def _fate(self, error: Exception) -> Ended | Stuck:
        """Why QEMU is out of reach."""
        try:
            # Its connections close before it is gone.
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return Stuck(f"QEMU doesn't answer ({error})")
        lines = (self.directory / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Ended(status, lines[0] if lines else "")

    def _opened_control(self) -> qmp.Session:
        def opened() -> qmp.Session:
            return qmp.Session(self.directory / CONTROL, timeout=ANSWER_SECONDS).__enter__()

        return self._retried(opened, qmp.QmpError)

    def _opened_stub(self) -> Stub:
        stub = self._retried(lambda: Stub(str(self.directory / STUB)), OSError)
        with self._answering():
            stub.ask(b"qSupported:xmlRegisters=i386")
            # QEMU tells single registers only to who has asked how they are called.
            stub.ask(b"qXfer:features:read:target.xml:0,ffb")
        return stub

    def _retried(self, opened: Callable[[], Opened], fault: type[Exception]) -> Opened:
        """What `opened` returns, once QEMU listens."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return opened()
            except fault as error:
                if self._process.poll() is not None:
                    raise self._fate(error) from error
                if time.monotonic() > deadline:
                    raise Stuck(f"QEMU did not answer within {START_SECONDS:.0f} s") from error
            self._listener.heard()
            time.sleep(POLL_SECONDS)


def dies_with_us() -> Callable[[], None] | None:
    """What a process does before it becomes QEMU: it asks the kernel for its end when this one's has come, whatever
    that was. Linux has that."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
