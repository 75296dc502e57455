"""Locks by flock(2): try one, or wait for it for a bounded time; the lock's file names its holder."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from typing import Any, Callable

from .plain import parsed, plain

PAUSE = 0.1
# The longest line, in characters, that a holder writes into the lock's file.
LONGEST = 65536


def take(handle: int) -> bool:
    """Lock an open file; False if another process holds its lock. Closing the file unlocks it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(handle: int, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
    """Lock an open file; wait for its lock for at most `seconds`, and call `meanwhile` in each round.

    Return whether the file is locked.
    """
    end = time.monotonic() + seconds
    while not take(handle):
        if time.monotonic() >= end:
            return False
        meanwhile()
        time.sleep(PAUSE)
    return True


def enter(handle: int, holder: Mapping[str, Any]) -> None:
    """Write the holder into the lock's file, as a line of JSON.

    A process that is killed before ftruncate leaves the end of an older, longer line after it; readers take one line.
    """
    said = json.dumps(holder).encode() + b"\n"
    os.pwrite(handle, said, 0)
    os.ftruncate(handle, len(said))


def entered(path: str) -> Any:
    """Return the holder that the lock's file names; OSError or ValueError if it names none."""
    with open(path, encoding="utf-8", opener=plain) as stream:
        return parsed(stream.readline(LONGEST), path)


def refusal(holder: str, path: str, seconds: float) -> str:
    """Return the error message, with the remedy, for a lock that wasn't free within `seconds`."""
    return f"{holder} holds the lock {path}; waited {seconds:.0f} s. Wait for it to end, or end it, and run again."
