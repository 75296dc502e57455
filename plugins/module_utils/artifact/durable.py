"""Sync files to disk before other steps rely on them, so that they survive a power cut."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Mapping
from typing import Any

from ..host import files
from .credentials import hidden


def sync(path: str) -> None:
    """Sync the file at `path`, or a directory's entries, to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_file_system(directory: str) -> bool:
    """Sync the whole file system of a directory; False if the C library has no syncfs."""
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
    """Sync all files and directories of a tree to disk.

    Prefer one syncfs: it takes as long as there is data to write, while each fsync also costs a journal entry.
    """
    if not _sync_file_system(tree):
        _sync_each(tree)


def sweep(directory: str) -> None:
    """Remove the temporary files of killed runs from a directory."""
    handle = files.open_unchecked(directory)
    try:
        files.sweep(handle)
    finally:
        os.close(handle)


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write JSON that all users may read, atomically, and without the credentials of the URLs in it."""
    files.write_json(path, hidden(content), opened=files.open_unchecked, errors="surrogateescape")
