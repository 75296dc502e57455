"""Opens files that the user or a record names, and refuses those that could block or never end.

Opening a FIFO waits for a writer, and reading a device may never end.
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
    """Opens the regular file or block device at `path` for reading. OSError as `open`; RumplabError if it is something
    else."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise RumplabError(f"{path} is {kind(mode)}, not a file; name a file")
        yield stream


def plain(path: str, flags: int) -> int:
    """Opens a regular file, as the `opener` of `open`, and returns the descriptor. OSError if it is something else."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {kind(mode)}, not a file", path)
    return handle


def kind(mode: int) -> str:
    """Returns the words for the type of file in `mode`, for an error message."""
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
