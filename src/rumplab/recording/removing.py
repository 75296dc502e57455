"""Removing a recording, unless somebody needs it."""

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
    """Keeps a recording from being removed. Any number may keep it."""
    handle = locks.opened(directory / USED)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RumplabError(f"{directory.name} is being removed") from None
    try:
        yield
    finally:
        os.close(handle)


def remove(directory: Path, machines: Machines) -> None:
    """Removes the recording in `directory`, also one that can't be read. RumplabError while it is made or repeated."""
    for machine in machines.all():
        if machine.recording == str(directory):
            raise RumplabError(
                f"{directory.name} is still being recorded by machine '{machine.name}' (pid {machine.pid}); end that"
                f" first: rumplab stop {machine.name}"
            )
    handle = locks.opened(directory / USED)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory)
    except BlockingIOError:
        raise RumplabError(f"{directory.name} is being replayed by another process; end that first") from None
    finally:
        os.close(handle)
