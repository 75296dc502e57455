"""Waiting for a lock of the tool's own, for a while and not for ever.

A lock is a file that only its user can open, in a directory of that user's: who can open a file can hold its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rumplab.errors import RumplabError

PAUSE = 0.02
RECORD_SECONDS = 10.0
LONGEST_PID = 20


def exclusive(handle: int, holder: str, what: str, seconds: float) -> None:
    """Takes flock(2) on the open file `handle`; RumplabError says that `holder` has held `what` for `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise RumplabError(
                    f"{holder}{written(handle)} has held {what} for {seconds:.0f} s; try again"
                ) from None
            time.sleep(PAUSE)


def opened(path: Path) -> int:
    """The lock file `path`, made where it isn't there, as a descriptor. Whatever it was before, only its owner can open
    it now. OSError where it is a link or another user's."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(handle, 0o600)
    except OSError:
        os.close(handle)
        raise
    return handle


def sign(handle: int) -> None:
    """Writes into the lock's file who holds it."""
    # A disk that is full mustn't keep anybody from a lock.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)


def written(handle: int) -> str:
    """The process that the lock's file names, in brackets, if it says one."""
    try:
        said = os.pread(handle, LONGEST_PID, 0).strip()
    except OSError:
        return ""
    return f" (pid {said.decode()})" if said.isdigit() else ""


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Holds the lock of the records below `root`. The kernel drops it when the process ends, however it ends."""
    handle = opened(root / ".lock")
    try:
        exclusive(handle, "another rumplab", f"{root}/.lock", RECORD_SECONDS)
        sign(handle)
        yield
    finally:
        os.close(handle)
