"""Removes a recording, unless a process records or replays it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import locks
from rumplab.machine.registry import Machines

USED = ".used"


@contextlib.contextmanager
def kept(directory: Path) -> Iterator[None]:
    """Holds a shared lock, so that no command removes the recording. RumplabError if one removes it already."""
    handle = locks.opened(directory / USED)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RumplabError(f"another command is removing {directory.name}; use another recording") from None
    try:
        yield
    finally:
        os.close(handle)


def remove(directory: Path, machines: Machines) -> None:
    """Removes the recording in `directory`, even if it is damaged. RumplabError while a process records or replays
    it."""
    for machine in machines.all():
        if machine.recording == str(directory):
            raise RumplabError(
                f"{directory.name} is still being recorded by machine '{machine.name}' (pid {machine.pid}); stop it"
                f" first: rumplab stop {machine.name}"
            )
    handle = locks.opened(directory / USED)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory)
    except BlockingIOError:
        raise RumplabError(f"another process replays {directory.name}; end that process first") from None
    finally:
        os.close(handle)
