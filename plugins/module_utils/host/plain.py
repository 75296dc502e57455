"""Reading what others may have put there: plain files only. A pipe that somebody put there would be waited for."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

# What comes of a file that was damaged: it isn't JSON, or isn't made of what it should be.
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def plain(path: str, flags: int) -> int:
    """Open a plain file, for `open(…, opener=plain)`; OSError for anything else."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is no plain file", path)
    return handle


def read_json(path: str) -> Any:
    """Return what a JSON file holds; OSError or ValueError where there is none, or what no writer of ours wrote."""
    with open(path, encoding="utf-8", opener=plain) as stream:
        return parsed(stream.read(), path)


def parsed(text: str, path: str) -> Any:
    """Return what a text of the file `path` says in JSON; ValueError where it isn't any."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
