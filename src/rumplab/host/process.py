"""Identifies a process even after its id is reused, and ends processes: another one, or this one with a clean-up."""

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
CALL_MODULE = "import sys; sys.path.insert(0, sys.argv[1]); from {} import main; sys.exit(main(sys.argv[2:]))"
ROOT = str(Path(__file__).resolve().parents[2])


def own_command(*arguments: str) -> list[str]:
    """Returns the argv that runs this tool with `arguments`. The working directory and the user's Python settings don't
    affect it."""
    return [sys.executable, "-I", "-c", CALL, ROOT, *arguments]


def own_module(module: str, *arguments: str) -> list[str]:
    """Returns the argv that calls `main` of this tool's `module` with the list `arguments`. It starts quickly: the
    module can't import anything from site-packages."""
    return [sys.executable, "-I", "-S", "-c", CALL_MODULE.format(module), ROOT, *arguments]


def started(pid: int) -> str | None:
    """Returns a token that identifies the process which has the id `pid` now; None if there is none, or it is a zombie.
    A later process with the same id has another token.

    On Linux the token is ``BOOT-ID/START``, with the start time in clock ticks since the boot (field 22 of
    ``/proc/PID/stat``). On other systems it is what ``ps -o lstart`` prints.
    """
    return _started_linux(pid) if PROC.is_dir() else _started_ps(pid)


def _started_linux(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    # Field 2, the command in parentheses, may itself contain spaces and parentheses: skip to the last parenthesis.
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}/{ticks}"


def seconds_since(token: str) -> float | None:
    """Returns how many seconds ago the process of `token` started; None if it isn't a token of Linux.

    A change of the system clock doesn't affect the result. Time in which the host was suspended counts.
    """
    ticks = token.rpartition("/")[2]
    if not PROC.is_dir() or "/" not in token or not ticks.isdecimal():
        return None
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK"), 0.0)


def _started_ps(pid: int) -> str | None:
    # Imported here because it takes long to load, and Linux doesn't need it.
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
    """Returns the command line of the process; ("?",) if the system doesn't show it."""
    try:
        content = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        content = b""
    return tuple(os.fsdecode(word) for word in content.rstrip(b"\0").split(b"\0") if word) or ("?",)


def alive(pid: int, token: str) -> bool:
    """Returns whether the process with id `pid` and the token `token` still runs."""
    return started(pid) == token


def wait_gone(pid: int, token: str, seconds: float) -> bool:
    """Waits at most `seconds` for the process to end. Returns whether it has ended."""
    deadline = time.monotonic() + seconds
    while alive(pid, token):
        if time.monotonic() >= deadline:
            return False
        _reap(pid)
        time.sleep(0.02)
    return True


def terminate(pid: int, token: str, patience: float = 3.0) -> bool:
    """Sends SIGTERM, and after `patience` seconds SIGKILL, to the process, never to a later one with the same id.
    Returns whether it has ended."""
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
    """Waits for `pid` if it is a child of this process: otherwise it would stay a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise SystemExit during the block, so that the clean-up code runs. Python already turns
    SIGINT into an exception."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)
