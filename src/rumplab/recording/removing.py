"""Removes a recording, unless a process records or replays it."""

from __future__ import annotations

import contextlib
import fcntl
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
    refusal = f"another command is removing {directory.name}; use another recording"
    with locks.at_once(directory / USED, fcntl.LOCK_SH, refusal):
        yield


def remove(directory: Path, machines: Machines) -> None:
    """Removes the recording in `directory`, even if it is damaged. RumplabError while a process records or replays
    it."""
    for machine in machines.all():
        if machine.recording == str(directory):
            raise RumplabError(
                f"{directory.name} is still being recorded by machine '{machine.name}' (pid {machine.pid}); stop it"
                f" first: rumplab stop {machine.name}"
            )
    refusal = f"another process replays {directory.name}; end that process first"
    with locks.at_once(directory / USED, fcntl.LOCK_EX, refusal):
        shutil.rmtree(directory)
