"""A recording as one file: a tar archive, packed by the program zstd, and back."""

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
# QEMU's log repeats itself: higher levels take minutes and gain little.
LEVEL = "-9"
WAIT = 30.0
PIECE = 1 << 20


def program() -> str:
    path = shutil.which(ZSTD)
    if path is None:
        raise NotProvisioned(f"recordings are packed by the program {ZSTD}, which isn't here; install the package zstd")
    return path


@contextlib.contextmanager
def running(argv: list[str], **streams: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process of `argv`; RumplabError when it fails, and it is ended with the block."""
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
    """Writes the recording to the file `output`, whole or not at all."""
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
    """The recording of the file `source` in a temporary directory in `parent`, from where it can be moved.
    RumplabError where it is no packed recording, or a part of one."""
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
            raise RumplabError(f"{source} is no packed recording, or a part of it is missing ({error})") from error
        if len(names) != 1 or not (directory / names[0] / RECORD).is_file():
            raise RumplabError(f"{source} holds no recording")
        yield record.read(directory / names[0])


def extract(stream: IO[bytes], directory: Path, source: Path) -> list[str]:
    """Writes the archive's files: plain ones, one directory deep. The names of the directories."""
    names: dict[str, None] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            place = Path(member.name)
            if not member.isfile() or len(place.parts) != 2 or ".." in place.parts or place.is_absolute():
                raise RumplabError(f"{source} holds {member.name}, which no recording has")
            names[place.parts[0]] = None
            target = directory / place
            target.parent.mkdir(0o700, exist_ok=True)
            if os.path.lexists(target):
                raise RumplabError(f"{source} holds {member.name} twice")
            require_space(directory, member.size, member.name)
            content = archive.extractfile(member)
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
                shutil.copyfileobj(content, handle, PIECE)  # type: ignore[arg-type]
    return list(names)
