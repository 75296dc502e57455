"""The key that both sides share: the kernel's option IPKDBKEY. It never stands on a command line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rumplab.errors import RumplabError, UsageError

VARIABLE = "RUMPLAB_IPKDB_KEY"
# The kernel drops IPKDB when its key is shorter.
SHORTEST = 16
LONGEST = 4096


def load(path: Path | None, fallback: Path | None = None) -> bytes:
    """The key from `path`, else from the environment, else from `fallback` if that is there.

    UsageError when none of them is given; RumplabError for a key that the kernel wouldn't take and for a file
    that others may read.
    """
    if path is not None:
        return check(read(path), str(path))
    value = os.environb.get(os.fsencode(VARIABLE))
    if value is not None:
        return check(value, VARIABLE)
    if fallback is not None and fallback.exists():
        return check(read(fallback), str(fallback))
    raise UsageError(f"IPKDB needs the kernel's IPKDBKEY: give a file with --key-file, or set {VARIABLE}")


def read(path: Path) -> bytes:
    """The content of a key file, without the newline that an editor leaves at its end."""
    try:
        with path.open("rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            content = handle.read(LONGEST + 1)
    except OSError as error:
        raise RumplabError(f"cannot read the key in {path}: {error.strerror}; check --key-file") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise RumplabError(f"{path} may be read by others; make it yours alone: chmod 600 {path}")
    return content[:-1] if content.endswith(b"\n") else content


def check(key: bytes, origin: str) -> bytes:
    """`key` if a kernel can have it; RumplabError, which never shows it, otherwise."""
    if len(key) < SHORTEST:
        raise RumplabError(
            f"the key in {origin} has {len(key)} bytes; IPKDBKEY has at least {SHORTEST}, and the kernel refuses less"
        )
    if len(key) > LONGEST or b"\0" in key:
        raise RumplabError(f"what is in {origin} is no IPKDBKEY: a string of {SHORTEST} to {LONGEST} bytes, none zero")
    return key
