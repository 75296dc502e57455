"""Watches a machine until it ends or fails. After a failure, writes a dump, prints a trace and starts a debugger."""

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
from rumplab.output import printable
from rumplab.postmortem import core, debugger, dump
from rumplab.postmortem.panic_policy import EXIT_FILE, FAILED, REPORT, SOCKET, STOP, PanicPolicy
from rumplab.postmortem.subject import describe

CONNECT_SECONDS = 20.0
ANSWER_SECONDS = 20.0
POLL_SECONDS = 0.03
TRACE_SECONDS = 60.0
# How long a killed GDB's pipes may stay open.
CLOSE_SECONDS = 2.0
FRAMES = 24
MARK = "rumplab-trace"
# Of a longer line, only the last bytes are compared with the pattern.
LONGEST_LINE = 4096
PIECE = 1 << 16
# QEMU's reasons for the end of a machine that has not failed: the guest or a user switched it off.
NO_FAILURE = ("guest-shutdown", "host-qmp-quit", "host-signal", "host-ui", "host-qmp-system-reset", "host-error")
CAUSES = {
    "guest-panic": "it reported a panic to pvpanic",
    "guest-reset": "the processor was reset, for example by a triple fault or a reboot",
    "subsystem-reset": "the processor was reset",
}
# The run states in which the processor doesn't execute.
STOPPED = ("paused", "debug", "guest-panicked", "shutdown", "internal-error", "io-error")


@dataclass(frozen=True)
class Outcome:
    """The end of a machine. `cause` is the reason of its failure, or empty; `code` is the exit status that the guest
    set; `dump` is the path of the dump that was written."""

    cause: str = ""
    code: int = 0
    dump: str | None = None


class Console:
    """Reads the log of a console while it grows, and compares its lines with `pattern`."""

    def __init__(self, path: Path, pattern: str | None) -> None:
        self._pattern = re.compile(pattern) if pattern else None
        self._file = path.open("rb") if pattern else None
        self._rest = b""

    def match(self) -> str | None:
        """Returns the first new line that matches; None if there is none."""
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


class Watcher:
    """Watches `machine` until it ends or fails. Its QEMU must have started stopped. After a failure and all actions of
    the policy, calls `report` with a text for the user."""

    def __init__(self, lab: Lab, machine: Machine, policy: PanicPolicy, report: Callable[[str], None]) -> None:
        self.lab, self.machine, self.policy = lab, machine, policy
        self._report = report
        self._written = machine.path / EXIT_FILE

    def watch(self) -> Outcome:
        """Returns how the machine ended."""
        with contextlib.closing(Console(self.machine.serial_log, self.policy.pattern)) as console:
            try:
                with connected(self.machine) as session:
                    if not self.policy.wait:
                        session.execute("cont")
                    return self._until_end(session, console)
            except qmp.QmpError as error:
                # A user has ended QEMU, or it crashed.
                self._require_ended(error)
                return Outcome()

    def _require_ended(self, why: Exception) -> None:
        """RumplabError if the machine runs on although its socket gave the error `why`."""
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
            if not cause and code is not None and code != self.policy.success:
                cause = f"it ended with status {code}"
            line = None if cause else console.match()
            cause = cause or (f"its console printed: {printable(line)}" if line is not None else "")
            if cause:
                return self._failed(session, cause)
            if ended or code is not None:
                session.execute("quit")
                return Outcome(code=code or 0)

    def _ended(self, event: dict[str, Any]) -> tuple[bool, str]:
        """Returns whether `event` is the end of the machine, and the cause if it is a failure."""
        if event["event"] == "GUEST_PANICKED":
            return True, CAUSES["guest-panic"]
        if event["event"] != "SHUTDOWN":
            return False, ""
        data = event.get("data")
        reason = str(data.get("reason", "")) if isinstance(data, dict) else ""
        return True, "" if reason in NO_FAILURE else CAUSES.get(reason, f"the machine ended ({reason})")

    def _code(self) -> int | None:
        """Returns the exit status for the byte that the guest has written, by the formula of isa-debug-exit; None if it
        has written none."""
        if not self.policy.exits:
            return None
        with contextlib.suppress(OSError), self._written.open("rb") as file:
            written = file.read(1)
            return 2 * written[0] + 1 & 0xFF if written else None
        return None

    def _failed(self, session: qmp.Session, cause: str) -> Outcome:
        """Carries out the policy. An action that fails adds its error to the report, and the others are done."""
        if session.status() not in STOPPED:
            session.execute("stop")
        report = [f"{self.machine.name} has failed: {cause}"]
        path = None
        if self.policy.dumps:
            path = free_path(Path(self.policy.directory), self.machine.name)
            try:
                dump.write(self.machine, describe(self.lab, self.machine, cause), path, session=session)
            except (RumplabError, OSError) as error:
                report.append(f"no dump: {error}")
                path = None
        if path is not None:
            report.append(self._trace(path))
            report.append(f"dump: {path}; open it with: rumplab debug --core {shlex.quote(str(path))}")
        if STOP in self.policy.actions:
            report.append(f"the machine is stopped there; attach with: {self._attach()}")
        self._report("\n".join(report))
        if STOP not in self.policy.actions:
            with contextlib.suppress(qmp.QmpError):
                session.execute("quit")
        return Outcome(cause, FAILED, str(path) if path else None)

    def _attach(self) -> str:
        if self.machine.guest:
            return f"rumplab guest debug {self.machine.name} --qemu-stub"
        return f"rumplab debug {self.machine.name}"

    def _trace(self, path: Path) -> str:
        scripts = [self.policy.script] if self.policy.script else []
        try:
            return trace(self.lab, path, scripts)
        except (RumplabError, OSError) as error:
            return f"no trace: {error}"


@contextlib.contextmanager
def connected(machine: Machine) -> Iterator[qmp.Session]:
    """Connects to the watcher's own QMP socket as soon as QEMU listens there."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(first_session(machine))


def first_session(machine: Machine) -> qmp.Session:
    """Returns a session that has a connection but isn't open yet. QmpError if the machine ends first, or if QEMU
    doesn't listen within CONNECT_SECONDS."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(machine.path / SOCKET))
            return qmp.Session(machine.path / SOCKET, ANSWER_SECONDS, connection)
        except OSError as error:
            # The socket's file exists before QEMU listens.
            connection.close()
            if not machine.alive() or time.monotonic() >= deadline:
                raise qmp.QmpError(f"{machine.path / SOCKET}: {error}") from error
        time.sleep(POLL_SECONDS / 10)


def free_path(directory: Path, name: str) -> Path:
    """Returns a path for a dump of the machine `name` that no file has yet."""
    path = directory / f"{name}.core"
    number = 2
    while path.exists():
        path = directory / f"{name}-{number}.core"
        number += 1
    return path


@contextlib.contextmanager
def gdb_on(lab: Lab, path: Path, wanted: Session) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Yields GDB's command line for the dump at `path` with the commands of `wanted`, and the descriptors that GDB must
    inherit."""
    gdb, gdbinit = command_line.debugger(lab)
    with core.opened(path) as opened:
        program = core.symbols(opened, lab, path, None)
        session = replace(wanted, gdb=gdb, gdbinit=gdbinit, program=program)
        argv = command_line.command_line(session, debugger.commands(opened, program, None))
        yield argv, () if opened.handle is None else (opened.handle,)


def trace(lab: Lab, path: Path, scripts: Sequence[str]) -> str:
    """Runs GDB on the dump at `path`. Returns the backtrace, the current instruction and the output of `scripts`."""
    commands = (f"echo {MARK}\\n", f"bt {FRAMES}", "x/i $pc")
    wanted = Session("", None, "", None, commands=commands, scripts=tuple(scripts), batch=True)
    with gdb_on(lab, path, wanted) as (argv, passed):
        printed, errors, late = limited(argv, passed, TRACE_SECONDS)
    # The output before the mark is about opening the dump.
    shown = printed.rpartition(f"{MARK}\n")[2].strip()
    complaints = errors.strip() if scripts or not shown else ""
    ended = f"GDB did not end within {TRACE_SECONDS:.0f} s and was killed" if late else ""
    if late and scripts:
        ended += f"; does {scripts[-1]} wait for something?"
    return "\n".join(part for part in (shown, complaints, ended) if part)


def limited(argv: Sequence[str], passed: Sequence[int], seconds: float) -> tuple[str, str, bool]:
    """Runs GDB, which inherits the descriptors `passed`. After `seconds`, kills it together with the programs that it
    has started. Returns its output, its errors, and whether it was killed."""
    with subprocess.Popen(
        argv,
        env=child_environment.of(child_environment.GDB),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=passed,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        try:
            return (*child.communicate(timeout=seconds), False)
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            # A program in a session of its own may still hold the pipes.
            with contextlib.suppress(subprocess.TimeoutExpired):
                return (*child.communicate(timeout=CLOSE_SECONDS), True)
            return decoded(error.stdout), decoded(error.stderr), True
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise


def decoded(output: bytes | str | None) -> str:
    """Returns `output` of a TimeoutExpired, which has bytes even of a text stream."""
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def debug(lab: Lab, path: Path) -> None:
    """Runs GDB with the dump at `path` on this terminal until the user quits it."""
    with gdb_on(lab, path, Session("", None, "", None)) as (argv, passed):
        # Only GDB reacts to Ctrl-C. A handler, unlike SIG_IGN, isn't inherited by GDB.
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
        try:
            subprocess.run(argv, env=child_environment.of(child_environment.GDB), pass_fds=passed, check=False)
        finally:
            signal.signal(signal.SIGINT, before)


class WatcherThread(threading.Thread):
    """Watches a machine that uses this process's terminal."""

    def __init__(self, lab: Lab, policy: PanicPolicy) -> None:
        super().__init__(daemon=True)
        self._lab, self._policy = lab, policy
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
            self.outcome = Watcher(self._lab, self._machine, self._policy, self._add_report).watch()
        except (RumplabError, OSError) as error:
            self._add_report(f"rumplab can no longer watch {self._machine.name}, and ends it: {error}")
            self.outcome = Outcome(str(error), FAILED)
            # Without a watcher, nothing would continue the machine, or end it.
            try:
                with connected(self._machine) as session:
                    session.execute("quit")
            except qmp.QmpError:
                if self._machine.alive():
                    os.kill(self._machine.pid, signal.SIGTERM)

    def _add_report(self, report: str) -> None:
        self._reports.append(report)
        if STOP in self._policy.actions:
            # QEMU has put the terminal into raw mode, where a line feed doesn't return to the first column.
            print("\r\n" + report.replace("\n", "\r\n"), end="\r\n", file=sys.stderr, flush=True)

    def result(self) -> Outcome:
        """Waits for the end of the watch, prints the reports and returns how the machine ended."""
        self.join(TRACE_SECONDS + CONNECT_SECONDS)
        if STOP not in self._policy.actions:
            for report in self._reports:
                print(report, file=sys.stderr, flush=True)
        return self.outcome


def watch_in_background(machine: Machine, policy: PanicPolicy) -> None:
    """Starts a process that watches the stopped `machine`, and returns when that process has connected and continued
    it. RumplabError if it doesn't."""
    report = machine.path / REPORT
    with report.open("wb") as output:
        child = subprocess.Popen(
            process.own_command("watch", machine.name),
            env=child_environment.of(child_environment.ITSELF),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + CONNECT_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(qmp.QmpError):
            if has_watcher(machine) and (policy.wait or qmp.status(machine.socket) != "prelaunch"):
                # The watcher runs on after this process. With a return code, Popen does not warn about it.
                child.returncode = 0
                return
        time.sleep(POLL_SECONDS)
    if child.poll() is None:
        child.kill()
    elif not machine.alive() or child.returncode in (0, FAILED):
        # The machine has ended already.
        return
    raise RumplabError(
        f"no process watches {machine.name}: {report.read_text(errors='replace').strip() or 'no answer'};"
        f" end it with: rumplab stop {machine.name}"
    )


def has_watcher(machine: Machine) -> bool:
    """Returns whether a process is connected to the watcher's socket."""
    chardevs = qmp.execute(machine.socket, "query-chardev")
    try:
        return any(one["label"] == "events" and not one["filename"].startswith("disconnected:") for one in chardevs)
    except MALFORMED as error:
        raise qmp.unknown(error) from error
