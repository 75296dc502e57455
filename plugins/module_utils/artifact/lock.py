"""One lock an artefact: a second run waits for the first, says for whom, and ends what a killed one left."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from types import TracebackType
from typing import Any

from ..host import locks
from ..host.plain import DAMAGED
from . import processes
from .errors import Broken

# The lock that this process holds, so that what it starts can be entered into the lock's file.
_held: list[Lock] = []


def is_alive(owner: dict[str, Any]) -> bool:
    """True when the process that entered itself as the owner still runs; its number alone may be another's by now."""
    started = processes.started(int(owner["pid"]))
    return started is not None and owner.get("started", started) == started


def enter_build(temporary: str) -> None:
    """Enter this process, which leads a session of its own, into the lock's file, so that a later run can end it.

    A command does so itself before it becomes its program: its parent may be killed as soon as it has started it.
    """
    for lock in _held:
        lock.enter(session=os.getpid(), session_started=processes.started(os.getpid()), temporary=temporary)


class Lock:
    """An flock(2) on `path`, which only its owner can open; the file names its holder.

    Commands that are run under it inherit it. When the run is killed they hold it on, until a later run ends them.
    """

    def __init__(self, path: str, wait: float, purpose: str) -> None:
        self.path, self.wait, self.purpose = path, wait, purpose
        self.descriptor = -1
        self.waited = 0.0
        self.entered: dict[str, Any] = {}

    def owner(self) -> dict[str, Any] | None:
        """Return what the file says of the holder, or None where it says nothing that makes sense."""
        try:
            said = locks.entered(self.path)
            return {**said, "pid": int(said["pid"]), **({"session": int(said["session"])} if "session" in said else {})}
        except (OSError, *DAMAGED):
            return None

    def holder(self) -> str:
        """Return who holds the lock, in words."""
        owner = self.owner()
        if owner is None:
            return "another process"
        who = f"process {owner['pid']} ({owner.get('purpose')}, since {owner.get('since')})"
        return who if is_alive(owner) else f"what {who} left behind when it was killed"

    def enter(self, **more: Any) -> None:
        """Write down who holds the lock, and for what."""
        self.entered.update(more)
        locks.enter(self.descriptor, self.entered)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        status = os.fstat(descriptor)
        # Whoever can open it can hold it: one of an older run may be open to all.
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
        return descriptor

    def _end_orphans(self) -> None:
        """End what a killed run left running, if it is a killed run that the lock is held for."""
        owner = self.owner()
        if owner and not is_alive(owner):
            processes.end_orphans(self.descriptor, owner)

    def __enter__(self) -> Lock:
        start = time.monotonic()
        self.descriptor = self._open()
        if not locks.wait_for(self.descriptor, self.wait, self._end_orphans):
            os.close(self.descriptor)
            raise Broken(locks.refusal(self.holder(), self.path, self.wait))
        # A build that let go of the lock may be at work still, in the directory that is about to be made anew.
        self._end_orphans()
        self.waited = time.monotonic() - start
        self.enter(
            pid=os.getpid(),
            started=processes.started(os.getpid()),
            purpose=self.purpose,
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        os.set_inheritable(self.descriptor, True)
        _held.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.remove(self)
        # Whatever way a build ended, what it left in the background would hold the lock on.
        processes.end_orphans(self.descriptor, self.owner() or self.entered)
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)
