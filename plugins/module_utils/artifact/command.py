"""Run one command of a build with a time limit and a log, and end it when the run ends."""

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
    """Ask the kernel to signal this process when its parent dies (Linux), so that a killed run ends its build."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, sig, 0, 0, 0)


def start_of_build(parent: int, temporary: str) -> None:
    """Prepare a build's command between fork and exec."""
    die_with_parent()
    if os.getppid() != parent:
        # The parent died before prctl: no signal will come.
        os._exit(1)
    enter_build(temporary)


def run_logged(argv: Sequence[str], cwd: str, environment: Mapping[str, str], log: IO[bytes], timeout: float) -> int:
    """Run `argv` with its output in `log`; return its exit status, or raise subprocess.TimeoutExpired.

    The command leads its own process group; at the time limit, the whole group is killed.
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
        # The command inherits the lock's descriptor on purpose: if this process is killed, the build keeps the lock.
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
    """Run a short command and return its result with output as text; the exit status is 124 after a time-out."""
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
