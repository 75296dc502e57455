"""Files that are on the disk, whole, by the time that something else relies on them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from typing import IO, Any

from .credentials import hidden

# The name of a file that is being written begins with this.
TEMPORARY = ".new-"


def sync(path: str) -> None:
    """Return when the file at `path`, or a directory's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_file_system(directory: str) -> bool:
    """Write out the whole file system that a directory is on; False where the C library has no such call."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        return False
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if library.syncfs(handle):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), directory)
    finally:
        os.close(handle)
    return True


def _sync_each(tree: str) -> None:
    for here, _, names in os.walk(tree, topdown=False):
        for path in (os.path.join(here, name) for name in names):
            if stat.S_ISREG(os.lstat(path).st_mode):
                sync(path)
        sync(here)


def sync_tree(tree: str) -> None:
    """Return when all files and directories of a tree are on the disk.

    One call for the file system costs as much as there is to write; one for each file costs a journal entry each.
    """
    if not _sync_file_system(tree):
        _sync_each(tree)


def sweep(directory: str) -> None:
    """Remove what killed runs were writing into a directory: a live one holds a lock on its file."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if not name.startswith(TEMPORARY):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(handle)


def _fresh(directory: str) -> tuple[str, int]:
    while True:
        path = os.path.join(directory, TEMPORARY + secrets.token_hex(8))
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:
                return path, handle
        # Somebody swept it between the two calls.
        os.close(handle)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """Give a stream whose content becomes the file at `path`, readable by all, when the block ends well."""
    directory = os.path.dirname(path)
    sweep(directory)
    fresh, handle = _fresh(directory)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(handle, 0o644)
            os.fsync(handle)
            if os.path.isdir(path) and not os.path.islink(path):
                # Somebody's accident. One with content is theirs to look at: OSError names it.
                os.rmdir(path)
            os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
    sync(directory)


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write JSON that all may read, whole or not at all, and without the credentials of any URL in it."""
    text = json.dumps(hidden(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with replacing(path) as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))
