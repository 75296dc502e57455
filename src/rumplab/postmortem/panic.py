"""Attending to a machine until it ends or fails, and what is done then: a dump, a trace, a debugger."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError
from rumplab.gdb import command_line
from rumplab.gdb.command_line import Session
from rumplab.host import child_environment, process
from rumplab.host.answers import MALFORMED
from rumplab.lab.config import Lab
from rumplab.machine import qmp
from rumplab.machine.registry import Machine
from rumplab.postmortem import core, debugger, dump
from rumplab.postmortem.subject import describe
from rumplab.postmortem.wishes import EXIT_FILE, FAILED, REPORT, SOCKET, STOP, Wishes

CONNECT_SECONDS = 20.0
ANSWER_SECONDS = 20.0
POLL_SECONDS = 0.03
TRACE_SECONDS = 60.0
FRAMES = 24
MARK = "rumplab-trace"
# Of a line without an end, its end is looked at.
LONGEST_LINE = 4096
PIECE = 1 << 16
# Causes of a machine's end that are no failure: the guest has switched it off, or a user has.
NO_FAILURE = ("guest-shutdown", "host-qmp-quit", "host-signal", "host-ui", "host-qmp-system-reset", "host-error")
CAUSES = {
    "guest-panic": "it told pvpanic of a panic",
    "guest-reset": "the processor was reset, as by a triple fault, or a guest that begins anew",
    "subsystem-reset": "the processor was reset",
}
HELD = ("paused", "debug", "guest-panicked", "shutdown", "internal-error", "io-error")


@dataclass(frozen=True)
class Outcome:
    """How a machine ended: by what it failed, if it did, or with the exit code that its guest gave. `dump` is the file
    that was written."""

    cause: str = ""
    code: int = 0
    dump: str | None = None


class Console:
    """The lines of a console's log, as they come, and the first one that matches `pattern`."""

    def __init__(self, path: Path, pattern: str | None) -> None:
        self._pattern = re.compile(pattern) if pattern else None
        self._file = path.open("rb") if pattern else None
        self._rest = b""

    def match(self) -> str | None:
        if self._pattern is None or self._file is None:
            return None
        while piece := self._file.read(PIECE):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in (*lines, self._rest):
                text = line[-LONGEST_LINE:].decode(errors="replace").rstrip("\r")
                if self._pattern.search(text):
                    return text
            self._rest = self._rest[-LONGEST_LINE:]
        return None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def printable(text: str) -> str:
    """`text` of a guest's without what a terminal would take for a command."""
    return "".join(character if character.isprintable() else "?" for character in text)


class Attendant:
    """Attends to `machine`, whose QEMU is to begin stopped, until it ends or fails. `tell` hears of a failure, when all
    that was asked for has been done."""

    def __init__(self, lab: Lab, machine: Machine, wishes: Wishes, tell: Callable[[str], None]) -> None:
        self.lab, self.machine, self.wishes = lab, machine, wishes
        self._tell = tell
        self._written = machine.path / EXIT_FILE

    def attend(self) -> Outcome:
        """How it ended."""
        with contextlib.closing(Console(self.machine.serial_log, self.wishes.pattern)) as console:
            try:
                with connected(self.machine) as session:
                    if not self.wishes.wait:
                        session.execute("cont")
                    return self._until_end(session, console)
            except qmp.QmpError as error:
                # It has ended, by somebody's will, or died.
                self._require_ended(error)
                return Outcome()

    def _require_ended(self, why: Exception) -> None:
        """RumplabError where the machine hasn't ended: it was not left by itself."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while self.machine.alive():
            if time.monotonic() >= deadline:
                raise RumplabError(f"{self.machine.name} doesn't answer: {why}; is the host busy?")
            time.sleep(POLL_SECONDS)

    def _until_end(self, session: qmp.Session, console: Console) -> Outcome:
        while True:
            event = session.event(POLL_SECONDS)
            ended, cause = self._ended(event) if event else (False, "")
            code = self._code()
            if not cause and code is not None and code != self.wishes.success:
                cause = f"it ended with status {code}"
            line = None if cause else console.match()
            cause = cause or (f"its console said: {printable(line)}" if line is not None else "")
            if cause:
                return self._failed(session, cause)
            if ended or code is not None:
                session.execute("quit")
                return Outcome(code=code or 0)

    def _ended(self, event: dict[str, Any]) -> tuple[bool, str]:
        """Whether what QEMU tells is the machine's end, and of what it failed."""
        if event["event"] == "GUEST_PANICKED":
            return True, CAUSES["guest-panic"]
        if event["event"] != "SHUTDOWN":
            return False, ""
        data = event.get("data")
        reason = str(data.get("reason", "")) if isinstance(data, dict) else ""
        return True, "" if reason in NO_FAILURE else CAUSES.get(reason, f"the machine ended ({reason})")

    def _code(self) -> int | None:
        """The status of the byte that the guest has written to end it, as QEMU's own device makes it."""
        if not self.wishes.exits:
            return None
        with contextlib.suppress(OSError), self._written.open("rb") as file:
            written = file.read(1)
            return 2 * written[0] + 1 & 0xFF if written else None
        return None

    def _failed(self, session: qmp.Session, cause: str) -> Outcome:
        """Does what was asked for. What goes wrong on the way is part of the report, and keeps nothing else back."""
        if session.status() not in HELD:
            session.execute("stop")
        said = [f"{self.machine.name} has failed: {cause}"]
        path = None
        if self.wishes.dumps:
            path = free_path(Path(self.wishes.directory), self.machine.name)
            try:
                dump.write(self.machine, describe(self.lab, self.machine, cause), path, session=session)
            except (RumplabError, OSError) as error:
                said.append(f"no dump: {error}")
                path = None
        if path is not None:
            said.append(self._trace(path))
            said.append(f"dump: {path}; open it with: rumplab debug --core {shlex.quote(str(path))}")
        if STOP in self.wishes.actions:
            said.append(f"it stands still there; attach with: {self._attach()}")
        self._tell("\n".join(said))
        if STOP not in self.wishes.actions:
            with contextlib.suppress(qmp.QmpError):
                session.execute("quit")
        return Outcome(cause, FAILED, str(path) if path else None)

    def _attach(self) -> str:
        if self.machine.guest:
            return f"rumplab guest debug {self.machine.name} --qemu-stub"
        return f"rumplab debug {self.machine.name}"

    def _trace(self, path: Path) -> str:
        scripts = [self.wishes.script] if self.wishes.script else []
        try:
            return trace(self.lab, path, scripts)
        except (RumplabError, OSError) as error:
            return f"no trace: {error}"


@contextlib.contextmanager
def connected(machine: Machine) -> Iterator[qmp.Session]:
    """A connection by the socket that is the attendant's own, once QEMU listens there."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(first_session(machine))


def first_session(machine: Machine) -> qmp.Session:
    """A session that isn't open yet, with a connection. QmpError when the machine ends before, or is late."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(machine.path / SOCKET))
            return qmp.Session(machine.path / SOCKET, ANSWER_SECONDS, connection)
        except OSError as error:
            # The file is there before somebody listens.
            connection.close()
            if not machine.alive() or time.monotonic() >= deadline:
                raise qmp.QmpError(f"{machine.path / SOCKET}: {error}") from error
        time.sleep(POLL_SECONDS / 10)


def free_path(directory: Path, name: str) -> Path:
    """Where a dump of the machine `name` can go without replacing an earlier one."""
    path = directory / f"{name}.core"
    number = 2
    while path.exists():
        path = directory / f"{name}-{number}.core"
        number += 1
    return path


@contextlib.contextmanager
def gdb_on(lab: Lab, path: Path, wanted: Session) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """The command line of GDB on the dump at `path`, with what `wanted` has it do, and the open files that it needs."""
    gdb, gdbinit = command_line.debugger(lab)
    with core.opened(path) as opened:
        program = core.symbols(opened, lab, path, None)
        session = replace(wanted, gdb=gdb, gdbinit=gdbinit, program=program)
        argv = command_line.command_line(session, debugger.commands(opened, program, None))
        yield argv, () if opened.handle is None else (opened.handle,)


def trace(lab: Lab, path: Path, scripts: Sequence[str]) -> str:
    """What GDB says of the place where the dump at `path` was made, and to `scripts`."""
    commands = (f"echo {MARK}\\n", f"bt {FRAMES}", "x/i $pc")
    wanted = Session("", None, "", None, commands=commands, scripts=tuple(scripts), batch=True)
    with gdb_on(lab, path, wanted) as (argv, passed):
        try:
            done = subprocess.run(
                argv,
                env=child_environment.of(child_environment.GDB),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=passed,
                text=True,
                errors="replace",
                timeout=TRACE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RumplabError(f"GDB takes longer than {TRACE_SECONDS:.0f} s") from error
    # What comes before tells of opening the dump.
    shown = done.stdout.rpartition(f"{MARK}\n")[2].strip()
    complaints = done.stderr.strip() if scripts or not shown else ""
    return "\n".join(part for part in (shown, complaints) if part)


def debug(lab: Lab, path: Path) -> None:
    """GDB on this terminal, on the dump at `path`, until the user leaves it."""
    with gdb_on(lab, path, Session("", None, "", None)) as (argv, passed):
        # Ctrl-C is for GDB alone, which begins with the default.
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
        try:
            subprocess.run(argv, env=child_environment.of(child_environment.GDB), pass_fds=passed, check=False)
        finally:
            signal.signal(signal.SIGINT, before)


class Beside(threading.Thread):
    """Attends to a machine that has this process's terminal."""

    def __init__(self, lab: Lab, wishes: Wishes) -> None:
        super().__init__(daemon=True)
        self._lab, self._wishes = lab, wishes
        self._machine: Machine | None = None
        self._reports: list[str] = []
        self.outcome = Outcome()

    def begin(self, machine: Machine) -> None:
        self._machine = machine
        self.start()

    def run(self) -> None:
        if self._machine is None:
            return
        try:
            self.outcome = Attendant(self._lab, self._machine, self._wishes, self._hear).attend()
        except (RumplabError, OSError) as error:
            self._hear(f"nobody attends to {self._machine.name} any more: {error}")
            self.outcome = Outcome(str(error), FAILED)
            # Nobody would let it go, or end it.
            try:
                with connected(self._machine) as session:
                    session.execute("quit")
            except qmp.QmpError:
                if self._machine.alive():
                    os.kill(self._machine.pid, signal.SIGTERM)

    def _hear(self, report: str) -> None:
        self._reports.append(report)
        if STOP in self._wishes.actions:
            # QEMU has set the terminal so that a line feed is no more than that.
            print("\r\n" + report.replace("\n", "\r\n"), end="\r\n", file=sys.stderr, flush=True)

    def ended(self) -> Outcome:
        """How the machine ended, once it has."""
        self.join(TRACE_SECONDS + CONNECT_SECONDS)
        if STOP not in self._wishes.actions:
            for report in self._reports:
                print(report, file=sys.stderr, flush=True)
        return self.outcome


def in_background(machine: Machine, wishes: Wishes) -> None:
    """Has another process attend to `machine`, which stands still as yet, and returns when it does. RumplabError when
    it doesn't."""
    report = machine.path / REPORT
    with report.open("wb") as said:
        child = subprocess.Popen(
            process.own_command("attend", machine.name),
            env=child_environment.of(child_environment.ITSELF),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    deadline = time.monotonic() + CONNECT_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(qmp.QmpError):
            if attended(machine) and (wishes.wait or qmp.status(machine.socket) != "prelaunch"):
                # It isn't to be waited for: it outlives this process.
                child.returncode = 0
                return
        time.sleep(POLL_SECONDS)
    if child.poll() is None:
        child.kill()
    elif not machine.alive() or child.returncode in (0, FAILED):
        # It has run to its end already.
        return
    raise RumplabError(
        f"nobody attends to {machine.name}: {report.read_text(errors='replace').strip() or 'no answer'};"
        f" end it with: rumplab stop {machine.name}"
    )


def attended(machine: Machine) -> bool:
    """Whether somebody is connected to the attendant's socket."""
    chardevs = qmp.execute(machine.socket, "query-chardev")
    try:
        return any(one["label"] == "events" and not one["filename"].startswith("disconnected:") for one in chardevs)
    except MALFORMED as error:
        raise qmp.unknown(error) from error
