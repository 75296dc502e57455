"""Read files that another user may have replaced. Only plain files: opening a FIFO would block."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

# The exceptions that reading a damaged file may raise: it isn't JSON, or its values have other types than expected.
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def plain(path: str, flags: int) -> int:
    """Open a plain file, as the argument in `open(…, opener=plain)`; OSError for any other kind of file."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is no plain file", path)
    return handle


def read_json(path: str) -> Any:
    """Return the content of a JSON file; OSError if it can't be read, ValueError if it isn't JSON."""
    with open(path, encoding="utf-8", opener=plain) as stream:
        return parsed(stream.read(), path)


def parsed(text: str, path: str) -> Any:
    """Return the value of the JSON text from the file `path`; ValueError if it isn't JSON or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
