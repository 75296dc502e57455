"""A cache of built trees, by stamp: hosts of the same platform need to build once only."""

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

# In the archive's own header, which tree it is: a name in a directory can be given to another file.
STAMP = "RUMPLAB.tree"


def _name(name: str, stamp: str) -> str:
    return f"{name}-{stamp}.tar"


def check_owner(path: str, status: os.stat_result) -> None:
    """Raise Broken when somebody else could have made or changed this: what is in it gets executed."""
    # In a directory like /tmp, nobody can exchange the files of others.
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not sticky):
        raise Broken(
            f"{path} was written by somebody else, and what is in it would be executed: remove it. A cache of built "
            "trees belongs to root or the lab user, with mode 0755 or 1777."
        )


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise Broken(f"{path} can't be unpacked: {error}. Remove it, and the tree is built anew.") from error


@contextlib.contextmanager
def _opened(cache: str, name: str, stamp: str) -> Iterator[tarfile.TarFile | None]:
    """Give the cached tree of this name and stamp, or None; Broken for one that somebody else may have put there.

    What has been looked at is what gets read: directory and file by descriptor, and no link is followed.
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
        raise Broken(f"{path} is no file, or none that can be read ({error.strerror}): remove it") from error
    else:
        check_owner(cache, os.fstat(directory))
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise Broken(f"{path} has another name, or is no file at all: remove it")
            check_owner(path, status)
            with _readable(path), reading(stream) as archive:
                # One of an older form doesn't say what it is, and is built once more.
                yield archive if archive.pax_headers.get(STAMP) == f"{name} {stamp}" else None
    finally:
        os.close(directory)


def has(cache: str, name: str, stamp: str) -> bool:
    """True when the cache holds the tree of this name and stamp."""
    with _opened(cache, name, stamp) as archive:
        return archive is not None


def restore(cache: str, name: str, stamp: str, directory: str) -> bool:
    """Unpack the cached tree into `directory`; False where there is none."""
    with _opened(cache, name, stamp) as archive:
        if archive is None:
            return False
        # It has been a tree before: what it may hold was declared then.
        extract(archive, directory, Allowance())
    return True


def keep(cache: str, name: str, stamp: str, directory: str) -> None:
    """Put the finished tree `directory` into the cache, by way of a temporary file; a cache we can't write is left."""
    if not cache or not os.access(cache, os.W_OK):
        return
    said = {STAMP: f"{name} {stamp}"}
    path = os.path.join(cache, _name(name, stamp))
    with (
        files.replacing(path, opened=files.open_as_it_stands) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers=said) as archive,
    ):
        archive.add(directory, arcname=".")
