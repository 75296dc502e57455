"""Files and directories beside an output, which take its place when they are complete or vanish."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from rumplab.errors import RumplabError


@contextlib.contextmanager
def temporary_file(directory: Path) -> Iterator[Path]:
    """An empty file in `directory`, removed at the end unless it was renamed. Its mode follows the umask."""
    path = directory / f".rumplab-stage-{secrets.token_hex(8)}"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise RumplabError(
            f"cannot write in {directory}: {error.strerror}; choose another place with -o"
        ) from error
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_directory(directory: Path) -> Iterator[Path]:
    """An empty directory in `directory`, removed at the end. Its mode follows the umask."""
    path = directory / f".rumplab-stage-{secrets.token_hex(8)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def work_directory(prefix: str) -> Iterator[Path]:
    """A directory for temporary files, private and empty, removed at the end.

    A signal that comes while it is made or removed waits until that is done: else nobody would remove it.
    """
    # Only here: it takes long to load.
    import tempfile

    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        path = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield path
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ending)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
