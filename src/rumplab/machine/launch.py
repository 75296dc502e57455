"""Starts a machine and keeps its record: the one place that runs QEMU for ``rumplab run``.

QEMU's process waits at a gate until the record names it. Whatever ends the launcher before, the gate falls shut and the
process ends without having become QEMU; whatever ends it afterwards, the machine is on record.
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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import IO, Any

from rumplab.errors import RumplabError
from rumplab.host import child_environment, holders, process
from rumplab.host.terminal import terminal_restored
from rumplab.machine import qmp
from rumplab.machine.registry import Machine, Machines

READY_SECONDS = 20.0
POLL_SECONDS = 0.002
KILL_SECONDS = 5.0
SHELL = "/bin/sh"
# What the process does until it becomes QEMU: a line has come, or it ends. A shell knows, and can close, descriptors of
# one digit only.
WAIT = 'read go <&{gate} || exit {shut}; exec "$@" {gate}<&-'
WAIT_HIGH = 'read go </dev/fd/{gate} || exit {shut}; exec "$@"'
SHUT = 124
FIRST_DESCRIPTOR, LAST_DESCRIPTOR = 3, 9
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# With --snapshot, QEMU still wants nobody to write to the image, and says "shared".
LOCKED = ('Failed to get "write" lock', 'Failed to get shared "write" lock')
# How often a signal that QEMU was to end by is sent again.
AGAIN_SECONDS = 1.0
IMAGE_IN_USE = re.compile(r"Is another process using the image \[(.+)\]\?")
# What QEMU says, and what to do about it.
KNOWN_FAILURES = (
    ("Could not set up host forwarding rule", "a port of --forward is taken; use another"),
    ("Address already in use", "the debug port is taken; use another --gdb-port"),
    ("No space left on device", "free some space"),
)


def started(
    machines: Machines, machine: Machine, argv: Sequence[str], passed: Sequence[int], **options: Any
) -> tuple[Machine, subprocess.Popen[bytes]]:
    """Starts QEMU, as Popen does with `options` and the descriptors `passed`, and returns the machine with its process
    on record. What goes wrong, or ends this process, leaves neither."""
    child: subprocess.Popen[bytes] | None = None
    try:
        if not os.access(argv[0], os.X_OK):
            number = errno.EACCES if os.path.exists(argv[0]) else errno.ENOENT
            raise OSError(number, os.strerror(number), argv[0])
        with gate() as (behind, way):
            wait = (WAIT if behind <= LAST_DESCRIPTOR else WAIT_HIGH).format(gate=behind, shut=SHUT)
            child = subprocess.Popen(
                [SHELL, "-c", wait, "rumplab", *argv],
                env=child_environment.of(child_environment.QEMU),
                pass_fds=(behind, *passed),
                **options,
            )
            token = process.started(child.pid)
            if token is None:
                raise RumplabError("the process that was to become QEMU was ended; try again")
            running = replace(machine, pid=child.pid, token=token, argv=tuple(argv))
            machines.update(running)
            os.write(way, b"\n")
    except BaseException:
        # Ctrl-C may have come when the gate was open already.
        if child is not None:
            child.kill()
            child.wait(KILL_SECONDS)
        machines.abandon(machine)
        raise
    return running, child


@contextlib.contextmanager
def gate() -> Iterator[tuple[int, int]]:
    """A pipe's ends: where the process waits, with the lowest number there is, and where it is let go. The kernel shuts
    it when this process ends, however it ends."""
    given, way = os.pipe()
    try:
        behind = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
    finally:
        os.close(given)
    try:
        yield behind, way
    finally:
        os.close(behind)
        os.close(way)


def foreground(
    machines: Machines, machine: Machine, argv: Sequence[str], passed: Sequence[int] = (), directory: str | None = None
) -> int:
    """Runs QEMU on this terminal until it ends, with the descriptors `passed`. Returns its status, or 128 plus the
    signal that ended it. A machine that is recorded runs in `directory`; what QEMU says is kept, and shown at the
    end."""
    with terminal_restored():
        return _attend(machines, machine, argv, passed, directory)


def _attend(
    machines: Machines, machine: Machine, argv: Sequence[str], passed: Sequence[int], directory: str | None
) -> int:
    caught: list[int] = []
    log = messages(machine) if directory else None
    machine, child = started(machines, machine, argv, passed, cwd=directory, stderr=log)

    def forward(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        child.send_signal(number)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)

    def again(_number: int, _frame: FrameType | None) -> None:
        # A QEMU that has hardly begun loses the first one.
        child.send_signal(caught[0])

    handlers = {**dict.fromkeys(FORWARDED, forward), signal.SIGALRM: again}
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
    """Starts QEMU on its own, in `directory` and with the descriptors `passed`, and waits until it answers. None when
    the guest has ended it by then."""
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
            # Whoever can open one of its sockets has the machine.
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
    """The file for what QEMU says. What is in it keeps its place on the disk."""
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
            # It must not be waited for by Popen's destructor: it outlives this process.
            child.returncode = 0
            return machine
    raise RumplabError(f"QEMU did not answer on {machine.socket} within {READY_SECONDS:.0f} s; is the host busy?")


def explain(code: int, log: str, files: Sequence[tuple[str, bool]] = ()) -> str:
    """A message for QEMU's early end, made from its exit status and what it printed. `files` are Machine.files."""
    locked = IMAGE_IN_USE.search(log)
    if locked is not None or any(sign in log for sign in LOCKED):
        # Older QEMU doesn't say which.
        file = locked[1] if locked else next(iter(files), ("a disk's file", True))[0]
        holder = holders.of_file(file) or "another user's, or it has ended meanwhile"
        return f"{file} is locked by a process that is none of your machines ({holder}); stop that first"
    if code == -signal.SIGSYS:
        return (
            "QEMU was ended for a system call that its sandbox forbids; if what stands behind '--' has it run a"
            " program, and you trust the guest, add: -sandbox off"
        )
    lines = log.strip().splitlines()
    for sign, remedy in KNOWN_FAILURES:
        said = next((line for line in lines if sign in line), None)
        if said is not None:
            return f"QEMU did not start: {said}; {remedy}"
    said = lines[-1] if lines else "it printed nothing"
    return f"QEMU did not start (exit status {code}): {said}"
