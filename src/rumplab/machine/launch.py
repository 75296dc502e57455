"""Starts QEMU for a machine and maintains the machine's record.

No QEMU runs without a record. The child process first runs a shell, which reads a line from a pipe. The launcher writes
the process id into the record and then writes the line, and the shell executes QEMU. If the launcher ends before, even
by SIGKILL, the kernel closes the pipe and the shell exits. If it ends afterwards, the record exists.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import IO, Any

from rumplab.errors import RumplabError
from rumplab.host import child_environment, children, holders, process
from rumplab.host.terminal import terminal_restored
from rumplab.machine import qmp
from rumplab.machine.registry import Machine, Machines

READY_SECONDS = 20.0
POLL_SECONDS = 0.002
KILL_SECONDS = 5.0
SHELL = "/bin/sh"
# The shell's script: it reads a line and executes QEMU, or exits at the end of the file. POSIX redirections take
# descriptors of one digit only; with a higher one, the script opens /dev/fd and QEMU inherits the pipe.
WAIT = 'read go <&{pipe} || exit {status}; exec "$@" {pipe}<&-'
WAIT_HIGH = 'read go </dev/fd/{pipe} || exit {status}; exec "$@"'
# The shell's exit status after the launcher has ended.
NOT_STARTED = 124
FIRST_DESCRIPTOR, LAST_DESCRIPTOR = 3, 9
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# QEMU's message if an image is locked. With --snapshot it has the word "shared": then QEMU takes a lock that only
# excludes writers.
LOCKED = ('Failed to get "write" lock', 'Failed to get shared "write" lock')
# The interval at which a forwarded signal is sent again, in seconds.
RESEND_SECONDS = 1.0
IMAGE_IN_USE = re.compile(r"Is another process using the image \[(.+)\]\?")
# QEMU's messages, and the remedy for each.
KNOWN_FAILURES = (
    ("Could not set up host forwarding rule", "a port of --forward is taken; use another"),
    ("Address already in use", "the debug port is taken; use another --gdb-port"),
    ("No space left on device", "free some space"),
)


def started(
    machines: Machines, machine: Machine, argv: Sequence[str], passed: Sequence[int], **options: Any
) -> tuple[Machine, subprocess.Popen[bytes]]:
    """Starts QEMU and returns the machine, whose record then names QEMU's process, and that process.

    QEMU inherits the descriptors `passed`; Popen gets `options`. On an error, removes the record and leaves no process.
    """
    child: subprocess.Popen[bytes] | None = None
    try:
        if not os.access(argv[0], os.X_OK):
            number = errno.EACCES if os.path.exists(argv[0]) else errno.ENOENT
            raise OSError(number, os.strerror(number), argv[0])
        with start_pipe() as (reading, writing):
            script = (WAIT if reading <= LAST_DESCRIPTOR else WAIT_HIGH).format(pipe=reading, status=NOT_STARTED)
            with children.signals_delayed():
                child = subprocess.Popen(
                    [SHELL, "-c", script, "rumplab", *argv],
                    env=child_environment.of(child_environment.QEMU),
                    pass_fds=(reading, *passed),
                    **options,
                )
            token = process.started(child.pid)
            if token is None:
                raise RumplabError("another process killed QEMU before it started; try again")
            running = replace(machine, pid=child.pid, token=token, argv=tuple(argv))
            machines.update(running)
            os.write(writing, b"\n")
    except BaseException:
        # After Ctrl-C, the line may have been written already, and QEMU may run.
        if child is not None:
            child.kill()
            child.wait(KILL_SECONDS)
        machines.abandon(machine)
        raise
    return running, child


@contextlib.contextmanager
def start_pipe() -> Iterator[tuple[int, int]]:
    """Yields the reading and the writing end of the pipe on which the child waits. The reading end has the lowest free
    number from FIRST_DESCRIPTOR on. The kernel closes the pipe when this process ends, even if it is killed."""
    given, writing = os.pipe()
    try:
        reading = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
    finally:
        os.close(given)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def foreground(
    machines: Machines,
    machine: Machine,
    argv: Sequence[str],
    passed: Sequence[int] = (),
    on_start: Callable[[Machine], None] = lambda machine: None,
    directory: str | None = None,
) -> int:
    """Runs QEMU on this terminal until it ends. QEMU inherits the descriptors `passed`. Calls `on_start` with the
    running machine once its record exists. A recorded machine runs in `directory`; its messages go to a log, which is
    printed at the end. Returns QEMU's exit status, or 128 plus the number of the signal that ended it."""
    with terminal_restored():
        return _run_and_forward_signals(machines, machine, argv, passed, on_start, directory)


def _run_and_forward_signals(
    machines: Machines,
    machine: Machine,
    argv: Sequence[str],
    passed: Sequence[int],
    on_start: Callable[[Machine], None],
    directory: str | None,
) -> int:
    caught: list[int] = []
    log = messages(machine) if directory else None
    machine, child = started(machines, machine, argv, passed, cwd=directory, stderr=log)
    on_start(machine)

    def forward(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        child.send_signal(number)
        signal.setitimer(signal.ITIMER_REAL, RESEND_SECONDS, RESEND_SECONDS)

    def resend(_number: int, _frame: FrameType | None) -> None:
        # QEMU loses a signal that arrives while it starts.
        child.send_signal(caught[0])

    handlers = {**dict.fromkeys(FORWARDED, forward), signal.SIGALRM: resend}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        code = child.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, before in previous.items():
            signal.signal(number, before)
        if log is not None:
            log.close()
            for line in machine.qemu_log.read_text(errors="replace").split("\n"):
                if line:
                    print(line, file=sys.stderr)
        machines.retire(machine)
    if caught or code < 0:
        return 128 + (caught[0] if caught else -code)
    return code


def detached(
    machines: Machines, machine: Machine, argv: Sequence[str], passed: Sequence[int] = (), directory: str | None = None
) -> Machine | None:
    """Starts QEMU in the background and waits until it answers on its control socket. QEMU inherits the descriptors
    `passed`, and a recorded machine runs in `directory`. Returns the running machine; None if the guest has already
    ended QEMU. RumplabError if QEMU fails."""
    try:
        log = messages(machine)
    except OSError:
        machines.abandon(machine)
        raise
    with log:
        running, child = started(
            machines,
            machine,
            argv,
            passed,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=directory,
            # Only this user may open its sockets: whoever opens one controls the machine.
            umask=0o177,
        )
    try:
        return _until_ready(machines, running, child)
    except BaseException:
        child.kill()
        child.wait(KILL_SECONDS)
        machines.retire(running)
        raise


def messages(machine: Machine) -> IO[bytes]:
    """Opens the file for QEMU's messages. Doesn't truncate it, so that a recording's file keeps its space on the
    disk."""
    return os.fdopen(os.open(machine.qemu_log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb")


def _until_ready(machines: Machines, machine: Machine, child: subprocess.Popen[bytes]) -> Machine | None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        code = child.poll()
        if code is not None:
            if code and not machine.serial_log.stat().st_size:
                raise RumplabError(explain(code, machine.qemu_log.read_text(errors="replace"), machine.files))
            machines.retire(machine)
            return None
        try:
            qmp.execute(machine.socket, "query-status", timeout=1.0)
        except qmp.QmpError:
            time.sleep(POLL_SECONDS)
        else:
            # QEMU runs on after this process ends. With a return code, Popen does not warn about a running child.
            child.returncode = 0
            return machine
    raise RumplabError(f"QEMU did not answer on {machine.socket} within {READY_SECONDS:.0f} s; is the host busy?")


def explain(code: int, log: str, files: Sequence[tuple[str, bool]] = ()) -> str:
    """Returns an error message for a QEMU that ended early, from its exit status `code` and its output `log`. `files`
    are Machine.files."""
    locked = IMAGE_IN_USE.search(log)
    if locked is not None or any(sign in log for sign in LOCKED):
        # An older QEMU doesn't name the file.
        file = locked[1] if locked else next(iter(files), ("a disk's file", True))[0]
        holder = holders.of_file(file) or "another user's, or it has ended meanwhile"
        return f"{file} is locked by a process that is none of your machines ({holder}); stop that process first"
    if code == -signal.SIGSYS:
        return (
            "the kernel ended QEMU because its sandbox forbids a system call; if the arguments after '--' make QEMU run"
            " a program, and you trust the guest, add: -sandbox off"
        )
    lines = log.strip().splitlines()
    for sign, remedy in KNOWN_FAILURES:
        message = next((line for line in lines if sign in line), None)
        if message is not None:
            return f"QEMU did not start: {message}; {remedy}"
    message = lines[-1] if lines else "it printed nothing"
    return f"QEMU did not start (exit status {code}): {message}"
