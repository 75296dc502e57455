"""A cache of built trees, by stamp, so that only one of several hosts of the same platform must build."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Iterator

from ..host import files
from .errors import Broken
from .members import Allowance
from .unpack import UNREADABLE, extract, reading

# The key in the archive's header that holds the tree's name and stamp, since a file can be renamed.
STAMP = "RUMPLAB.tree"


def _name(name: str, stamp: str) -> str:
    return f"{name}-{stamp}.tar"


def check_owner(path: str, status: os.stat_result) -> None:
    """Raise Broken if another user could have made or changed this: programs in the archive will be executed."""
    # In a sticky directory such as /tmp, nobody can replace another user's files.
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not sticky):
        raise Broken(
            f"{path} may have been written by another user, and programs in it would be executed; remove it. Root or "
            "the lab user must own a cache of built trees, with mode 0755 or 1777."
        )


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise Broken(f"{path} can't be unpacked: {error}; remove it, and the next run builds the tree again") from error


@contextlib.contextmanager
def _opened(cache: str, name: str, stamp: str) -> Iterator[tarfile.TarFile | None]:
    """Yield the archive of the tree with this name and stamp, or None; Broken if another user may have written it.

    The directory and the file are checked and read by descriptor, without following links, so that nobody can replace
    them in between.
    """
    path = os.path.join(cache, _name(name, stamp))
    try:
        directory = os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if cache else -1
    except OSError:
        directory = -1
    if directory < 0:
        yield None
        return
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(_name(name, stamp), flags, dir_fd=directory)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise Broken(f"{path} can't be opened as a file ({error.strerror}); remove it") from error
    else:
        check_owner(cache, os.fstat(directory))
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise Broken(f"{path} has more than one hard link, or is no plain file; remove it")
            check_owner(path, status)
            with _readable(path), reading(stream) as archive:
                # Archives of older versions lack the key; the tree is built again.
                yield archive if archive.pax_headers.get(STAMP) == f"{name} {stamp}" else None
    finally:
        os.close(directory)


def has(cache: str, name: str, stamp: str) -> bool:
    """Return whether the cache has the tree with this name and stamp."""
    with _opened(cache, name, stamp) as archive:
        return archive is not None


def restore(cache: str, name: str, stamp: str, directory: str) -> bool:
    """Unpack the cached tree into `directory`; False if the cache doesn't have it."""
    with _opened(cache, name, stamp) as archive:
        if archive is None:
            return False
        # No size limit: the limit was applied to the source when the tree was built.
        extract(archive, directory, Allowance())
    return True


def keep(cache: str, name: str, stamp: str, directory: str) -> None:
    """Put the finished tree `directory` into the cache, atomically; do nothing if the cache isn't writable."""
    if not cache or not os.access(cache, os.W_OK):
        return
    said = {STAMP: f"{name} {stamp}"}
    path = os.path.join(cache, _name(name, stamp))
    with (
        files.replacing(path, opened=files.open_unchecked) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers=said) as archive,
    ):
        archive.add(directory, arcname=".")
