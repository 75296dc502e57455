"""Files that are on the disk, whole, by the time that something else relies on them."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Mapping
from typing import Any

from ..host import files
from .credentials import hidden


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
    """Remove what killed runs were writing into a directory."""
    handle = files.open_as_it_stands(directory)
    try:
        files.sweep(handle)
    finally:
        os.close(handle)


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write JSON that all may read, whole or not at all, and without the credentials of any URL in it."""
    files.write_json(path, hidden(content), opened=files.open_as_it_stands, errors="surrogateescape")
