"""Packs a recording into one file, a tar archive compressed by the program zstd, and unpacks it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rumplab.errors import NotProvisioned, RumplabError
from rumplab.host import child_environment
from rumplab.host.files import require_space, temporary_directory, temporary_file
from rumplab.recording import record
from rumplab.recording.record import RECORD, Recording

ZSTD = "zstd"
# QEMU's log is repetitive; higher levels take minutes and save little.
LEVEL = "-9"
WAIT = 30.0
PIECE = 1 << 20


def program() -> str:
    path = shutil.which(ZSTD)
    if path is None:
        raise NotProvisioned(f"the program {ZSTD}, which packs recordings, is not installed; install the package zstd")
    return path


@contextlib.contextmanager
def running(argv: list[str], **streams: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Starts `argv` and yields the process. RumplabError if its exit status isn't 0; after an exception in the block,
    kills it."""
    with subprocess.Popen(
        argv,
        env=child_environment.of(child_environment.TOOL),
        stderr=subprocess.PIPE,
        **streams,  # type: ignore[call-overload]
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        said = process.stderr.read().decode(errors="replace").strip()
        if process.wait(WAIT):
            raise RumplabError(f"{ZSTD} failed: {said or f'status {process.returncode}'}")


def pack(recording: Recording, output: Path) -> None:
    """Writes the recording to the file `output`, which appears only when it is complete."""
    argv = [program(), LEVEL, "--quiet", "--stdout"]
    with temporary_file(output.parent) as path:
        with (
            path.open("wb") as target,
            running(argv, stdin=subprocess.PIPE, stdout=target) as process,
            tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name in (RECORD, *recording.hashes):
                archive.add(recording.directory / name, f"{recording.name}/{name}", recursive=False)
        path.replace(output)


@contextlib.contextmanager
def unpacked(source: Path, parent: Path) -> Iterator[Recording]:
    """Unpacks the file `source` into a temporary directory in `parent`, and yields the recording, which the caller may
    move. RumplabError if the file isn't a complete packed recording."""
    with temporary_directory(parent) as directory:
        try:
            with (
                source.open("rb") as given,
                running(
                    [program(), "--decompress", "--quiet", "--stdout"], stdin=given, stdout=subprocess.PIPE
                ) as zstd,
            ):
                names = extract(zstd.stdout, directory, source)  # type: ignore[arg-type]
        except (tarfile.TarError, EOFError) as error:
            raise RumplabError(f"{source} is not a complete packed recording ({error}); copy it again") from error
        if len(names) != 1 or not (directory / names[0] / RECORD).is_file():
            raise RumplabError(f"{source} contains no recording; name a file of 'rumplab recording pack'")
        yield record.read(directory / names[0])


def extract(stream: IO[bytes], directory: Path, source: Path) -> list[str]:
    """Writes the archive's files to `directory` and returns the names of its directories. RumplabError for a member
    that isn't a regular file in one directory."""
    names: dict[str, None] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            place = Path(member.name)
            if not member.isfile() or len(place.parts) != 2 or ".." in place.parts or place.is_absolute():
                raise RumplabError(f"{source} contains {member.name}, which is not a file of a recording; don't use it")
            names[place.parts[0]] = None
            target = directory / place
            target.parent.mkdir(0o700, exist_ok=True)
            if os.path.lexists(target):
                raise RumplabError(f"{source} contains {member.name} twice; don't use it")
            require_space(directory, member.size, member.name)
            content = archive.extractfile(member)
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
                shutil.copyfileobj(content, handle, PIECE)  # type: ignore[arg-type]
    return list(names)
