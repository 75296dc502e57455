"""Files and directories beside an output, which take its place when they are complete or vanish.

Whoever makes one holds its lock. One that is nobody's was left by a process that was killed, and the next one takes it
away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rumplab.errors import RumplabError

PREFIX = ".rumplab-stage-"


@contextlib.contextmanager
def temporary_file(directory: Path) -> Iterator[Path]:
    """An empty file in `directory`, removed at the end unless it was renamed. Its mode follows the umask."""
    path, lock = locked(directory, lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def temporary_directory(directory: Path) -> Iterator[Path]:
    """An empty directory in `directory`, removed at the end. Its mode follows the umask."""
    path, lock = locked(directory, Path.mkdir)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def locked(directory: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    """A new name in `directory`, which `make` has made, and an open file that holds its lock."""
    while True:
        path = directory / f"{PREFIX}{secrets.token_hex(8)}"
        try:
            make(path)
        except OSError as error:
            raise RumplabError(
                f"cannot write in {directory}: {error.strerror}; choose another place with -o"
            ) from error
        try:
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # Swept, before it had its lock.
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)


def sweep(directory: Path) -> None:
    """Takes away what processes of this user's that were killed have left in `directory`."""
    for path in directory.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if os.fstat(handle).st_uid != os.getuid():
                    continue
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(handle)
