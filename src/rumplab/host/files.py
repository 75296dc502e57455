"""Temporary files and directories: those beside an output take its place when they are complete, or vanish.

Whoever makes one holds its lock. One that is nobody's was left by a process that was killed, and the next one takes it
away.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from rumplab.errors import RumplabError

MIB = 1 << 20

PREFIX = ".rumplab-stage-"
# What work directories are called, and are for.
WORK = "rumplab-{}-"
PURPOSES = ("stage", "smoke", "probe", "ipkdb", "replay")


@contextlib.contextmanager
def temporary_file(directory: Path) -> Iterator[Path]:
    """An empty file in `directory`, removed at the end unless it was renamed. Its mode follows the umask."""
    with told(directory):
        path, lock = locked(directory, PREFIX, make_file)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def temporary_directory(directory: Path) -> Iterator[Path]:
    """An empty directory in `directory`, removed at the end. Its mode follows the umask."""
    with told(directory):
        path, lock = locked(directory, PREFIX, Path.mkdir)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def told(directory: Path) -> Iterator[None]:
    """Makes of a system's error one that says what to do about an output's place."""
    try:
        yield
    except OSError as error:
        raise RumplabError(f"cannot write in {directory}: {error.strerror}; choose another place with -o") from error


def make_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def locked(directory: Path, prefix: str, make: Callable[[Path], None]) -> tuple[Path, int]:
    """A new name in `directory` that begins with `prefix`, which `make` has made, and an open file that holds its
    lock."""
    while True:
        path = directory / f"{prefix}{secrets.token_hex(8)}"
        make(path)
        try:
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # Swept, before it had its lock.
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)


def sweep(directory: Path, prefix: str = PREFIX) -> None:
    """Takes away what processes of this user's that were killed have left in `directory`."""
    for path in directory.glob(f"{prefix}*"):
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


def sweep_work() -> None:
    """Takes away the work directories of this user's that killed processes have left."""
    # Only here: it takes long to load.
    import tempfile

    for purpose in PURPOSES:
        sweep(Path(tempfile.gettempdir()), WORK.format(purpose))


@contextlib.contextmanager
def work_directory(purpose: str) -> Iterator[Path]:
    """A directory for temporary files, private and empty, removed at the end. Those of the same `purpose`, one of
    PURPOSES, that were left are swept first.

    A signal that comes while it is made or removed waits until that is done: else nobody would remove it.
    """
    # Only here: it takes long to load.
    import tempfile

    prefix = WORK.format(purpose)
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        base = Path(tempfile.gettempdir())
        sweep(base, prefix)
        path, lock = locked(base, prefix, lambda path: path.mkdir(0o700))
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield path
        finally:
            try:
                # A signal that came just before is answered in this call.
                signal.pthread_sigmask(signal.SIG_BLOCK, ending)
            finally:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sha256(path: str | Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for piece in iter(lambda: handle.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def require_space(directory: Path, needed: int, what: str) -> None:
    """RumplabError when `directory` has less than `needed` bytes left for `what`."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RumplabError(
            f"no space left in {directory}: {what} takes {-(-needed // MIB)} MiB, and {free // MIB} MiB are free;"
            " free some space"
        )
