"""Temporary files and directories. A process writes its output to one of them and renames it when it is complete.

The process that makes one holds a lock on it until it ends. If nobody holds the lock, the process was killed; the next
process removes what it left.
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
# The prefix of a work directory's name, and the purposes that it names.
WORK = "rumplab-{}-"
PURPOSES = ("stage", "smoke", "probe", "ipkdb", "replay")


@contextlib.contextmanager
def temporary_file(directory: Path) -> Iterator[Path]:
    """Yields an empty file in `directory`, and removes it at the end unless it was renamed. Its mode follows the
    umask. RumplabError if the file can't be made."""
    with explaining_errors(directory):
        path, lock = locked(directory, PREFIX, make_file)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def temporary_directory(directory: Path) -> Iterator[Path]:
    """Yields an empty directory in `directory`, and removes it at the end. Its mode follows the umask. RumplabError if
    it can't be made."""
    with explaining_errors(directory):
        path, lock = locked(directory, PREFIX, Path.mkdir)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def explaining_errors(directory: Path) -> Iterator[None]:
    """Turns an OSError of the block into a RumplabError with a remedy. `directory` is where the output goes."""
    try:
        yield
    except OSError as error:
        raise RumplabError(f"cannot write in {directory}: {error.strerror}; choose another place with -o") from error


def make_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def locked(directory: Path, prefix: str, make: Callable[[Path], None]) -> tuple[Path, int]:
    """Makes a file or directory with `make` under a new name in `directory`, and takes its lock. Returns its path and
    the descriptor that holds the lock. `prefix` begins the name."""
    while True:
        path = directory / f"{prefix}{secrets.token_hex(8)}"
        make(path)
        try:
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # Another process's `sweep` removed it before it was locked: try another name.
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)


def sweep(directory: Path, prefix: str = PREFIX) -> None:
    """Removes what this user's killed processes left in `directory` under names that begin with `prefix`."""
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
    """Removes the work directories that this user's killed processes left."""
    # Imported here because it takes long to load.
    import tempfile

    for purpose in PURPOSES:
        sweep(Path(tempfile.gettempdir()), WORK.format(purpose))


@contextlib.contextmanager
def work_directory(purpose: str) -> Iterator[Path]:
    """Yields an empty private directory for temporary files, and removes it at the end. `purpose` is one of PURPOSES.
    First removes directories of the same purpose that killed processes left.

    Blocks signals while it makes or removes the directory: otherwise a signal in between would leave it behind.
    """
    # Imported here because it takes long to load.
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
                # Python runs the handler of a signal that came just before this call, and the handler may raise.
                signal.pthread_sigmask(signal.SIG_BLOCK, ending)
            finally:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits. Reads it in pieces of 1 MiB, since an image may be larger
    than the memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for piece in iter(lambda: handle.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def require_space(directory: Path, needed: int, what: str) -> None:
    """Raises RumplabError if `directory` has less than `needed` bytes free. `what` names what needs them."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RumplabError(
            f"no space left in {directory}: {what} takes {-(-needed // MIB)} MiB, and {free // MIB} MiB are free;"
            " free some space"
        )
