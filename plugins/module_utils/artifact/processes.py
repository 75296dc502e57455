"""Find and end the processes that a killed run has left: by lock, session and directory, never by name (Linux only)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

PROC = "/proc"
# Seconds after which end_orphans stops: a process in uninterruptible sleep dies when its system call returns.
KILL_TIMEOUT = 2.0
FLOCK = re.compile(r"^lock:\s.*\bFLOCK\b", re.MULTILINE)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat, beginning with the state, or None if there is no such process."""
    try:
        with open(f"{PROC}/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()
    except OSError:
        return None


def started(pid: int) -> str | None:
    """Return a text that identifies a live process besides its pid: boot id and start time; None for a dead one."""
    fields = _stat(pid)
    if fields is None:
        # Without /proc, only the pid identifies a process.
        return _exists(pid) if not os.path.exists(f"{PROC}/self/stat") else None
    return None if fields[0] in "ZX" else f"{boot()} {fields[19]}"


def _exists(pid: int) -> str | None:
    """Return "?" if there is a process with this pid, else None."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "?"
    return "?"


def boot() -> str:
    """Return the kernel's boot id, "" if it has none."""
    try:
        with open(f"{PROC}/sys/kernel/random/boot_id", encoding="utf-8") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _pids() -> Iterator[int]:
    for name in os.listdir(PROC):
        if name.isdigit() and int(name) != os.getpid():
            yield int(name)


def _holds(pid: int, lock: os.stat_result) -> bool:
    """Return whether a process holds the lock by a descriptor; a process that waits for the lock doesn't."""
    with contextlib.suppress(OSError):
        for number in os.listdir(f"{PROC}/{pid}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"{PROC}/{pid}/fd/{number}")
                if (status.st_dev, status.st_ino) != (lock.st_dev, lock.st_ino):
                    continue
                with open(f"{PROC}/{pid}/fdinfo/{number}", encoding="utf-8") as stream:
                    if FLOCK.search(stream.read()):
                        return True
    return False


def _builds_in(pid: int, temporary: str) -> bool:
    """Return whether a process was started with TMPDIR set to this build's directory."""
    # ValueError: the damaged file has a name with a NUL character.
    with contextlib.suppress(OSError, ValueError), open(f"{PROC}/{pid}/environ", "rb") as stream:
        return os.fsencode(f"TMPDIR={temporary}") in stream.read().split(b"\0")
    return False


def _is_orphan(pid: int, lock: os.stat_result, owner: Mapping[str, Any]) -> bool:
    """Return whether a process belongs to the build that the lock's file names.

    At least two of three must be true: it is in the build's session; its TMPDIR is the build's; it holds the lock. Only
    the last is true for a new run that has just taken the lock and hasn't written itself into the file yet.
    """
    try:
        if os.stat(f"{PROC}/{pid}").st_uid != os.geteuid():
            return False
    except OSError:
        return False
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return False
    session = int(fields[3]) == owner.get("session") and _is_session(owner)
    builds = bool(owner.get("temporary")) and _builds_in(pid, str(owner["temporary"]))
    return [session, builds, _holds(pid, lock)].count(True) >= 2


def _is_session(owner: Mapping[str, Any]) -> bool:
    """Return whether the session that the file names can still exist; its number may be reused when it is empty."""
    entered = str(owner.get("session_started"))
    leader = started(int(owner["session"]))
    return entered.startswith(boot() + " ") and leader in (None, entered)


def _end(pid: int, still: str | None) -> None:
    """Kill a process if `started` still returns `still` for it: its pid may be another process's by now."""
    if not hasattr(os, "pidfd_open"):
        if started(pid) == still:
            os.kill(pid, signal.SIGKILL)
        return
    handle = os.pidfd_open(pid)
    try:
        if started(pid) == still:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def end_orphans(lock: int, owner: Mapping[str, Any]) -> int:
    """Kill the remaining processes of the build that `owner` describes; return their number.

    `owner`, from the lock's file, is a dead process or this process itself. It searches repeatedly, since a process may
    start others before it is killed.
    """
    if not sys.platform.startswith("linux") or "session" not in owner:
        return 0
    status, ended, end = os.fstat(lock), 0, time.monotonic() + KILL_TIMEOUT
    while time.monotonic() < end:
        found = [(pid, started(pid)) for pid in _pids() if _is_orphan(pid, status, owner)]
        if not found:
            break
        for pid, still in found:
            with contextlib.suppress(OSError):
                _end(pid, still)
                ended += 1
        time.sleep(0.01)
    return ended
