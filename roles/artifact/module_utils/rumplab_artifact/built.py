"""A cache of built trees, by stamp: hosts of the same platform need to build once only."""

from __future__ import annotations

import os
import tarfile
import tempfile

from .errors import Broken
from .unpack import UNREADABLE, extract


def _path(cache: str, name: str, stamp: str) -> str:
    return os.path.join(cache, f"{name}-{stamp}.tar")


def check_owner(path: str) -> None:
    """Raise Broken when somebody else could have made or changed this tree: what is in it gets executed."""
    status = os.stat(path)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise Broken(
            f"{path} was written by somebody else, and what is in it would be executed: remove it. A cache of built "
            "trees belongs to root or the lab user, with mode 0755 or 1777."
        )


def has(cache: str, name: str, stamp: str) -> bool:
    """True when the cache holds the tree of this name and stamp."""
    return bool(cache) and os.path.isfile(_path(cache, name, stamp))


def restore(cache: str, name: str, stamp: str, directory: str) -> bool:
    """Unpack the cached tree into `directory`; False where there is none."""
    if not has(cache, name, stamp):
        return False
    path = _path(cache, name, stamp)
    check_owner(path)
    try:
        with tarfile.open(path) as archive:
            extract(archive, directory)
    except UNREADABLE as error:
        raise Broken(f"{path} can't be unpacked: {error}. Remove it, and the tree is built anew.") from error
    return True


def keep(cache: str, name: str, stamp: str, directory: str) -> None:
    """Put the finished tree `directory` into the cache, by way of a temporary file; a cache we can't write is left."""
    if not cache or not os.access(cache, os.W_OK):
        return
    descriptor, fresh = tempfile.mkstemp(dir=cache, prefix=".new-")
    try:
        stream = os.fdopen(descriptor, "wb")
        with stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(directory, arcname=".")
        os.chmod(fresh, 0o644)
        os.replace(fresh, _path(cache, name, stamp))
    except BaseException:
        os.unlink(fresh)
        raise
