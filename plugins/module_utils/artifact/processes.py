"""The processes that a killed run left, found by what they hold and never by name (Linux; elsewhere none is found)."""

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
# Seconds after which no more rounds are made: a process in the kernel's hands dies when it comes back.
PATIENCE = 2.0
FLOCK = re.compile(r"^lock:\s.*\bFLOCK\b", re.MULTILINE)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None where there is no such process."""
    try:
        with open(f"{PROC}/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()
    except OSError:
        return None


def started(pid: int) -> str | None:
    """Return when a living process started, in the host's own count and with that boot's name; None for a dead one."""
    fields = _stat(pid)
    if fields is None:
        # A system without /proc: the number has to do.
        return _answers(pid) if not os.path.exists(f"{PROC}/self/stat") else None
    return None if fields[0] in "ZX" else f"{boot()} {fields[19]}"


def _answers(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "?"
    return "?"


def boot() -> str:
    """Return which start of the host this is."""
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
    """Whether a process has the lock by a descriptor that it inherited; one that only waits for it hasn't."""
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
    """Whether a process was started with a build's directory for temporary files."""
    # ValueError is of a name that no directory has.
    with contextlib.suppress(OSError, ValueError), open(f"{PROC}/{pid}/environ", "rb") as stream:
        return os.fsencode(f"TMPDIR={temporary}") in stream.read().split(b"\0")
    return False


def _is_orphan(pid: int, lock: os.stat_result, owner: Mapping[str, Any]) -> bool:
    """Whether a process belongs to the build that is entered in the lock's file.

    Two of three have to fit: it holds the lock, it is of the build's session, it builds in the build's directory. A
    run that has just taken the lock and hasn't said so yet fits one.
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
    """Whether the session that is entered is still that one: its number is free again once nobody is in it."""
    entered = str(owner.get("session_started"))
    leader = started(int(owner["session"]))
    return entered.startswith(boot() + " ") and leader in (None, entered)


def _end(pid: int, still: str | None) -> None:
    """Kill the process that `still` is the start of, and no other that has got its number since."""
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
    """End what is left of the build that `owner` says was run under the lock; return how many processes that were.

    `owner` is dead, or this process itself. Several rounds are made, since what is being ended may start others.
    """
    if not sys.platform.startswith("linux") or "session" not in owner:
        return 0
    status, ended, end = os.fstat(lock), 0, time.monotonic() + PATIENCE
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
