"""The tool's own lock files. Each wait for one has a time limit.

A lock file is in a directory of its user, and only that user can open it: whoever can open a file can lock it.
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
    """Locks the descriptor `handle` with flock(2). RumplabError if that takes longer than `seconds`; it says that
    `holder` has held `what`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise RumplabError(
                    f"{holder}{recorded_holder(handle)} has held {what} for {seconds:.0f} s; try again"
                ) from None
            time.sleep(PAUSE)


def opened(path: Path) -> int:
    """Opens the lock file `path` and returns the descriptor. Makes the file if it is missing, and sets its mode so that
    only its owner can open it. OSError if it is a symbolic link or belongs to another user."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(handle, 0o600)
    except OSError:
        os.close(handle)
        raise
    return handle


def record_holder(handle: int) -> None:
    """Writes this process's id into the lock file."""
    # The lock works without it: a full disk must not prevent locking.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)


def recorded_holder(handle: int) -> str:
    """Returns the process id in the lock file as " (pid N)"; "" if the file holds none."""
    try:
        content = os.pread(handle, LONGEST_PID, 0).strip()
    except OSError:
        return ""
    return f" (pid {content.decode()})" if content.isdigit() else ""


@contextlib.contextmanager
def at_once(path: Path, kind: int, refusal: str) -> Iterator[None]:
    """Holds the lock file `path` during the block, with LOCK_EX or LOCK_SH as `kind`. RumplabError with the message
    `refusal`, without a wait, if another process holds it."""
    handle = opened(path)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RumplabError(refusal) from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Holds the lock of the records in `root` during the block. The kernel releases it when the process ends, even if
    it is killed. RumplabError if another process holds it for RECORD_SECONDS."""
    handle = opened(root / ".lock")
    try:
        exclusive(handle, "another rumplab", f"{root}/.lock", RECORD_SECONDS)
        record_holder(handle)
        yield
    finally:
        os.close(handle)
