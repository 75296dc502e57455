"""Telling a process apart from a later one with the same number, and ending one, this one too, in good order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PROC = Path("/proc/self")
CALL = "import sys; sys.path.insert(0, sys.argv.pop(1)); from rumplab.__main__ import entry; sys.exit(entry())"


def itself(*arguments: str) -> list[str]:
    """The command of this very tool again, whatever the working directory and the user's Python settings hold."""
    return [sys.executable, "-I", "-c", CALL, str(Path(__file__).resolve().parents[2]), *arguments]


def started(pid: int) -> str | None:
    """A token that names this life of `pid`; None when there is no such process, or only its zombie.

    On Linux the token is the boot and the start time in clock ticks (field 22 of ``/proc/PID/stat``),
    elsewhere what ``ps -o lstart`` prints.
    """
    return _started_linux(pid) if PROC.is_dir() else _started_ps(pid)


def _started_linux(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    # The command, field 2, may itself hold spaces and parentheses: count from its last one.
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}/{ticks}"


def seconds_since(token: str) -> float | None:
    """For how many seconds the process of a Linux `token` has been running, whatever was done to the clock; else None.

    Time for which the host was suspended counts.
    """
    ticks = token.rpartition("/")[2]
    if not PROC.is_dir() or "/" not in token or not ticks.isdecimal():
        return None
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK"), 0.0)


def _started_ps(pid: int) -> str | None:
    # Only here: Linux does without, and it takes long to load.
    import subprocess

    from rumplab.host import child_environment

    result = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        env=child_environment.of(child_environment.TOOL),
        timeout=5,
        check=False,
    )
    state, _, token = result.stdout.strip().partition(" ")
    return token.strip() if token and not state.startswith("Z") else None


def words(pid: int, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """The command line of the process, as far as the system shows it; never nothing."""
    try:
        said = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        said = b""
    return tuple(os.fsdecode(word) for word in said.rstrip(b"\0").split(b"\0") if word) or ("?",)


def alive(pid: int, token: str) -> bool:
    """Whether `pid` is still the process that `token` was taken from."""
    return started(pid) == token


def wait_gone(pid: int, token: str, seconds: float) -> bool:
    """Waits at most `seconds` for the process to end; whether it did."""
    deadline = time.monotonic() + seconds
    while alive(pid, token):
        if time.monotonic() >= deadline:
            return False
        _reap(pid)
        time.sleep(0.02)
    return True


def terminate(pid: int, token: str, patience: float = 3.0) -> bool:
    """SIGTERM, then after `patience` seconds SIGKILL, to this very process only; whether it is gone."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if not alive(pid, token):
            return True
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            return True
        if wait_gone(pid, token, patience):
            return True
    return False


def _reap(pid: int) -> None:
    """Collects `pid` if it is a child of ours, since only then its number is free."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into an exit that cleans up, as Python does for SIGINT."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)
