"""One lock an artefact: a second run waits for the first, and says for whom."""

from __future__ import annotations

import fcntl
import json
import os
import time
from types import TracebackType

from .errors import Broken


def is_alive(pid: int) -> bool:
    """True when there is a process of this number, whoever it belongs to."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Lock:
    """An flock(2) on `path`; the file names its holder. Commands that are run under it inherit it."""

    def __init__(self, path: str, wait: float, purpose: str) -> None:
        self.path, self.wait, self.purpose = path, wait, purpose
        self.descriptor = -1
        self.waited = 0.0

    def holder(self) -> str:
        """Return who holds the lock, in words."""
        try:
            with open(self.path, encoding="utf-8") as stream:
                owner = json.load(stream)
            who = f"process {owner['pid']} ({owner['purpose']}, since {owner['since']})"
            return who if is_alive(owner["pid"]) else f"what {who} left behind when it was killed"
        except (OSError, ValueError, KeyError):
            return "another process"

    def __enter__(self) -> Lock:
        start = time.monotonic()
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - start >= self.wait:
                    os.close(self.descriptor)
                    raise Broken(
                        f"{self.holder()} holds the lock {self.path}; waited {self.wait:.0f} s. "
                        "Wait for it to end, or end it, and run again."
                    ) from None
                time.sleep(0.2)
        self.waited = time.monotonic() - start
        owner = {
            "pid": os.getpid(),
            "purpose": self.purpose,
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(owner).encode(), 0)
        os.set_inheritable(self.descriptor, True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)
