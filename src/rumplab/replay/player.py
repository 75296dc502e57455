"""Controls one QEMU that replays a recording, by QMP and by its debug stub.

QEMU replays forwards only. Its position is the number of executed instructions. Each wait has a time limit: if QEMU
gives no answer, or executes no more instructions, Stuck is raised, and the caller starts another QEMU.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rumplab.host import child_environment, children
from rumplab.machine import qmp
from rumplab.recording import command
from rumplab.recording.record import Recording
from rumplab.replay.faults import Ended, Stuck, Untrusted
from rumplab.replay.state import TAG, Start
from rumplab.replay.stub import ANSWER_SECONDS, Hangup, Stub

START_SECONDS = 20.0
POLL_SECONDS = 0.002
# The interval at which the position is read, and the longest time without progress. If a guest sleeps for a minute, so
# does the replay: QEMU waits in real time.
LOOK_SECONDS = 0.5
STALL_SECONDS = 120.0
END_SECONDS = 5.0
SAVE_SECONDS = 120.0
CONSOLE, CONTROL, STUB, OUTPUT = "console", "qmp.sock", "gdb.sock", "qemu.log"
# The first byte of a stop reply.
STOPS = (b"T", b"S")
# The instruction pointer among the registers of x86-64.
PC = b"p10"
PR_SET_PDEATHSIG = 1
Opened = TypeVar("Opened")


class Listener:
    """Watches for input while a wait goes on, such as a Ctrl-C of the debugger. This one has no input."""

    def filenos(self) -> tuple[int, ...]:
        """Returns the descriptors whose input ends a wait early."""
        return ()

    def on_input(self) -> None:
        """Reads the available input. Interrupted if the user wants the wait to end."""

    @contextlib.contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """In this block, on_input() calls `interrupt`, which stops the guest, instead of raising Interrupted."""
        yield


NOBODY = Listener()


class Player:
    """A QEMU that replays `recording`, stopped before the first instruction, or at the snapshot of `start`.

    Makes the directory `directory` for its sockets, so the path must be short. Use it in a `with` statement, or call
    close().
    """

    def __init__(
        self, recording: Recording, directory: Path, listener: Listener = NOBODY, start: Start | None = None
    ) -> None:
        self.directory, self._listener = directory, listener
        directory.mkdir(mode=0o700)
        argv = command.replay_argv(
            recording,
            str(directory / CONSOLE),
            control=str(directory / CONTROL),
            stub=str(directory / STUB),
            held=True,
        )
        argv = start.argv(argv) if start else argv
        try:
            with (directory / OUTPUT).open("wb") as output, children.signals_delayed():
                self._process = subprocess.Popen(
                    argv,
                    env=child_environment.of(child_environment.QEMU),
                    cwd=recording.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    umask=0o177,
                    preexec_fn=kill_with_parent(),
                )
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
        if hasattr(self, "_process"):
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)

    @property
    def console(self) -> Path:
        return self.directory / CONSOLE

    @property
    def position(self) -> int:
        """Returns the number of executed instructions."""
        with self._answering():
            return int(self._control.execute("query-replay")["icount"])

    @property
    def pc(self) -> int:
        """Returns the address of the next instruction."""
        return int.from_bytes(bytes.fromhex(self.ask(PC).decode()), "little")

    def ask(self, data: bytes) -> bytes:
        """Sends a packet to the stub, and returns the answer."""
        with self._answering():
            return self.stub.ask(data)

    @property
    def registers(self) -> str:
        """Returns the SHA-256 of the registers, in the format of the stub."""
        return hashlib.sha256(self.ask(b"g")).hexdigest()

    def go(self, position: int) -> None:
        """Executes up to `position`. No breakpoint or watchpoint may be set."""
        if self.set_out(position):
            self.arrive(position)

    def set_out(self, position: int) -> bool:
        """Begins to execute up to `position`; arrive() waits for the end. Returns False if QEMU is there already."""
        now = self.position
        if position < now:
            raise ValueError(f"{position} is before {now}")
        if position > now:
            self.hold_at(position)
            self.resume(b"c")
        return position > now

    def arrive(self, position: int, stall: float = STALL_SECONDS) -> None:
        """Waits until QEMU is at `position`. Stuck if it isn't, or after `stall` seconds without progress."""
        self.stop(stall)
        reached = self.position
        if reached != position:
            raise Stuck(f"QEMU stopped at instruction {reached} before it reached {position}")

    def require_at(self, position: int, registers: str) -> None:
        """Raises Untrusted unless QEMU is at `position` and has these registers."""
        if (self.position, self.registers) != (position, registers):
            raise Untrusted(f"QEMU does not start at the snapshot at instruction {position}")

    def save(self) -> str:
        """Saves the state in the files of `start`. Returns QEMU's message if it can't, or an empty string."""
        with self._answering():
            # QEMU takes this snapshot when a debugger connects.
            for command in ("delvm start_debugging", f"savevm {TAG}"):
                said = self._control.execute("human-monitor-command", {"command-line": command}, SAVE_SECONDS)
            return str(said).strip()

    def hold_at(self, position: int) -> None:
        """Sets QEMU's one breakpoint at a position."""
        with self._answering():
            self._control.execute("replay-break", {"icount": position})

    def resume(self, packet: bytes) -> None:
        with self._answering():
            self.stub.send(packet)

    def interrupt(self) -> None:
        """Stops the guest; stop() then returns the reply."""
        with self._answering():
            self.stub.interrupt()

    def stop(self, stall: float = STALL_SECONDS) -> bytes:
        """Waits for the next stop and returns the stub's stop reply. Raises Ended, Stuck, or the listener's
        Interrupted."""
        last, since = -1, time.monotonic()
        while True:
            with self._answering():
                said = self.stub.receive(LOOK_SECONDS, self._listener.filenos())
            if said is not None and said[:1] in STOPS:
                return said
            self._listener.on_input()
            now = self.position
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > stall:
                raise Stuck(f"QEMU has executed no instruction after {now} for {stall:.0f} s")

    def insert(self, points: Iterable[bytes]) -> None:
        """Sets breakpoints and watchpoints, each in the format of GDB's packet Z."""
        for point in points:
            if self.ask(b"Z" + point) != b"OK":
                raise Stuck(f"QEMU refuses the breakpoint {point.decode(errors='replace')}")

    def remove(self, points: Iterable[bytes]) -> None:
        """Removes breakpoints and watchpoints."""
        for point in points:
            self.ask(b"z" + point)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Turns a lost connection into Ended or Stuck."""
        try:
            yield
        except (Hangup, qmp.QmpError) as error:
            raise self._fate(error) from error

    def _fate(self, error: Exception) -> Ended | Stuck:
        """Returns the reason for a lost connection."""
        try:
            # A QEMU that ends closes its connections first.
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return Stuck(f"QEMU doesn't answer ({error})")
        lines = (self.directory / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Ended(status, lines)

    def _opened_control(self) -> qmp.Session:
        def opened() -> qmp.Session:
            return qmp.Session(self.directory / CONTROL, timeout=ANSWER_SECONDS).__enter__()

        return self._retried(opened, qmp.QmpError)

    def _opened_stub(self) -> Stub:
        stub = self._retried(lambda: Stub(str(self.directory / STUB)), OSError)
        with self._answering():
            stub.ask(b"qSupported:xmlRegisters=i386")
            # QEMU answers the packet p only after the client has read the target description.
            stub.ask(b"qXfer:features:read:target.xml:0,ffb")
        return stub

    def _retried(self, opened: Callable[[], Opened], fault: type[Exception]) -> Opened:
        """Calls `opened` until QEMU listens, and returns its result."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return opened()
            except fault as error:
                if self._process.poll() is not None:
                    raise self._fate(error) from error
                if time.monotonic() > deadline:
                    raise Stuck(f"QEMU did not answer within {START_SECONDS:.0f} s") from error
            self._listener.on_input()
            time.sleep(POLL_SECONDS)


def kill_with_parent() -> Callable[[], None] | None:
    """Returns the function that the child calls before it executes QEMU: it asks the kernel to kill the child when this
    process ends for any reason. None if the system isn't Linux."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
