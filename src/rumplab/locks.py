"""Waiting for a lock of the tool's own, for a while and not for ever."""

from __future__ import annotations

import fcntl
import time

from rumplab.errors import RumplabError

PAUSE = 0.02


def exclusive(handle: int, holder: str, what: str, seconds: float) -> None:
    """Takes flock(2) on the open file `handle`; RumplabError says that `holder` has held `what` for `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise RumplabError(f"{holder} has held {what} for {seconds:.0f} s; try again") from None
            time.sleep(PAUSE)
