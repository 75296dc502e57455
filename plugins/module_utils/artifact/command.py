"""Running one command of a build: bounded, logged, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from .lock import enter_build

PR_SET_PDEATHSIG = 1


def die_with_parent(sig: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent dies (Linux); a killed run leaves no builder behind."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, sig, 0, 0, 0)


def start_of_build(parent: int, temporary: str) -> None:
    """What a command of a build does before it becomes its program."""
    die_with_parent()
    if os.getppid() != parent:
        # It died before the kernel was asked.
        os._exit(1)
    enter_build(temporary)


def run_logged(argv: Sequence[str], cwd: str, environment: Mapping[str, str], log: IO[bytes], timeout: float) -> int:
    """Run `argv`, its output going to `log`; return its exit status, or raise subprocess.TimeoutExpired.

    The command leads a process group of its own, which is ended whole when the time is up.
    """
    parent, temporary = os.getpid(), environment.get("TMPDIR", "")
    process = subprocess.Popen(
        list(argv),
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: start_of_build(parent, temporary),
        # The lock's descriptor goes along on purpose: who builds still holds the lock when we are killed.
        close_fds=False,
    )
    try:
        return process.wait(timeout=timeout)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def run_quiet(
    argv: Sequence[str], cwd: str | None = None, environment: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a short command and return its result with text output; a time-out counts as exit status 124."""
    try:
        return subprocess.run(
            list(argv),
            cwd=cwd,
            env=dict(environment) if environment is not None else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            preexec_fn=die_with_parent,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(argv), 124, "", f"timed out after {timeout:.0f} s")
