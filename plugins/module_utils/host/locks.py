"""Locks by flock(2): tried, or waited for a bounded time, with their holder entered in the file."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from typing import Any, Callable

from .plain import parsed, plain

PAUSE = 0.1
# Characters of the longest line that anybody enters.
LONGEST = 65536


def take(handle: int) -> bool:
    """Lock an open file, unless somebody else holds its lock; closing it lets go."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(handle: int, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
    """Lock an open file, for which `seconds` are waited at most; False when they have passed."""
    end = time.monotonic() + seconds
    while not take(handle):
        if time.monotonic() >= end:
            return False
        meanwhile()
        time.sleep(PAUSE)
    return True


def enter(handle: int, holder: Mapping[str, Any]) -> None:
    """Write down who holds the lock, in a line. Who is killed meanwhile leaves the end of an earlier one behind it."""
    said = json.dumps(holder).encode() + b"\n"
    os.pwrite(handle, said, 0)
    os.ftruncate(handle, len(said))


def entered(path: str) -> Any:
    """Return who holds the lock, as its file says; OSError or ValueError where it says nothing."""
    with open(path, encoding="utf-8", opener=plain) as stream:
        return parsed(stream.readline(LONGEST), path)


def refusal(holder: str, path: str, seconds: float) -> str:
    """Return what to tell who has waited for `seconds`, and what to do."""
    return f"{holder} holds the lock {path}; waited {seconds:.0f} s. Wait for it to end, or end it, and run again."
