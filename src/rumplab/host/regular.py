"""Opening a file that somebody names: one that has a beginning and an end, and no wait in it.

Opening a FIFO waits for a writer, and a device may have no end. `run` and `stage` take what stands on a disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rumplab.errors import RumplabError


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The file at `path`, or the disk, to be read. OSError as `open`; RumplabError for what is neither."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise RumplabError(f"{path} is {kind(mode)}, not a file; name a file")
        yield stream


def plain(path: str, flags: int) -> int:
    """Opens a plain file, for `open(…, opener=plain)`; OSError for anything else."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {kind(mode)}, not a file", path)
    return handle


def kind(mode: int) -> str:
    """What a file of `mode` is, in words."""
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
