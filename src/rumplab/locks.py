"""Waiting for a lock of the tool's own, for a while and not for ever."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from rumplab.errors import RumplabError

PAUSE = 0.02
RECORD_SECONDS = 10.0


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


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Holds the lock of the records below `root`. The kernel drops it when the process ends, however it ends."""
    with (root / ".lock").open("w", encoding="ascii") as handle:
        exclusive(handle.fileno(), "another rumplab", f"{root}/.lock", RECORD_SECONDS)
        yield
