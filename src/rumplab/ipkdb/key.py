"""The key that the kernel and its debugger share: the kernel's option IPKDBKEY. It is never a command-line argument,
which other users of the host could read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rumplab.errors import RumplabError, UsageError

VARIABLE = "RUMPLAB_IPKDB_KEY"
# The kernel disables IPKDB when its key is shorter.
SHORTEST = 16
LONGEST = 4096


def load(path: Path | None, fallback: Path | None = None) -> bytes:
    """The key from `path`, else from the environment variable, else from `fallback` if it exists.

    UsageError when there is no key; RumplabError for a key that the kernel rejects, and for a file that other users may
    read.
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
    """The content of a key file, without the newline that an editor adds at the end."""
    try:
        with path.open("rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            content = handle.read(LONGEST + 1)
    except OSError as error:
        raise RumplabError(f"cannot read the key in {path}: {error.strerror}; check --key-file") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise RumplabError(f"{path} is readable by other users; run: chmod 600 {path}")
    return content[:-1] if content.endswith(b"\n") else content


def check(key: bytes, origin: str) -> bytes:
    """`key`, if a kernel accepts it. Else RumplabError, whose message never contains the key."""
    if len(key) < SHORTEST:
        raise RumplabError(
            f"the key in {origin} has {len(key)} bytes; the kernel requires at least {SHORTEST}: give its IPKDBKEY"
        )
    if len(key) > LONGEST or b"\0" in key:
        raise RumplabError(f"{origin} doesn't hold an IPKDBKEY; give {SHORTEST} to {LONGEST} bytes without a NUL")
    return key
