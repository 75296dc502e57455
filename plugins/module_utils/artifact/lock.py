"""A lock for each artefact. A second run waits for the first, and ends the processes that a killed run has left."""

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

# The locks that this process holds; enter_build writes the processes that it starts into the locks' files.
_held: list[Lock] = []


def is_alive(owner: dict[str, Any]) -> bool:
    """Return whether the owner that the file names still runs. Its start time counts, since pids are reused."""
    started = processes.started(int(owner["pid"]))
    return started is not None and owner.get("started", started) == started


def enter_build(temporary: str) -> None:
    """Write this process, a session leader, into the lock's file, so that a later run can end its session.

    The child calls this itself before exec, since its parent may be killed right after the fork.
    """
    for lock in _held:
        lock.enter(session=os.getpid(), session_started=processes.started(os.getpid()), temporary=temporary)


class Lock:
    """An flock(2) on `path`, a file that only its owner can open and that names the lock's holder.

    Commands that the run starts inherit the lock. If the run is killed, they hold it until a later run ends them.
    """

    def __init__(self, path: str, wait: float, purpose: str) -> None:
        self.path, self.wait, self.purpose = path, wait, purpose
        self.descriptor = -1
        self.waited = 0.0
        self.entered: dict[str, Any] = {}

    def owner(self) -> dict[str, Any] | None:
        """Return the holder that the file names, or None if the file names none."""
        try:
            said = locks.entered(self.path)
            return {**said, "pid": int(said["pid"]), **({"session": int(said["session"])} if "session" in said else {})}
        except (OSError, *DAMAGED):
            return None

    def holder(self) -> str:
        """Return the lock's holder in words, for messages."""
        owner = self.owner()
        if owner is None:
            return "another process"
        who = f"process {owner['pid']} ({owner.get('purpose')}, since {owner.get('since')})"
        return who if is_alive(owner) else f"a process that {who} left when it was killed"

    def enter(self, **more: Any) -> None:
        """Add values to what the lock's file says about its holder."""
        self.entered.update(more)
        locks.enter(self.descriptor, self.entered)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        status = os.fstat(descriptor)
        # Any user who can open the file can lock it, and older versions made it readable for all.
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
        return descriptor

    def _end_orphans(self) -> None:
        """End the processes of the run that the file names, if that run was killed."""
        owner = self.owner()
        if owner and not is_alive(owner):
            processes.end_orphans(self.descriptor, owner)

    def __enter__(self) -> Lock:
        start = time.monotonic()
        self.descriptor = self._open()
        if not locks.wait_for(self.descriptor, self.wait, self._end_orphans):
            os.close(self.descriptor)
            raise Broken(locks.refusal(self.holder(), self.path, self.wait))
        # A process of a killed run may have closed the lock's descriptor and still write to the work directory.
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
        # A background process that a build has left would keep the lock.
        processes.end_orphans(self.descriptor, self.owner() or self.entered)
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)
