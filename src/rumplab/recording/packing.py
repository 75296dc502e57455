"""Packs a recording into one file, a tar archive compressed by the program zstd, and unpacks it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rumplab.errors import NotProvisioned, RumplabError
from rumplab.host import child_environment, children, regular
from rumplab.host.answers import MALFORMED
from rumplab.host.files import sweep, temporary_directory, temporary_file
from rumplab.recording import copying, record
from rumplab.recording.record import LARGEST, RECORD, Recording

ZSTD = "zstd"
# QEMU's log is repetitive; higher levels take minutes and save little.
LEVEL = "-9"
WAIT = 30.0
# The most bytes of a read. A file is read in smaller pieces.
LONGEST = 2 * copying.PIECE
# The most bytes that a recording's files have, with their holes: it bounds the time to unpack an archive.
MOST = 64 << 30


def program() -> str:
    path = shutil.which(ZSTD)
    if path is None:
        raise NotProvisioned(f"the program {ZSTD}, which packs recordings, is not installed; install the package zstd")
    return path


@contextlib.contextmanager
def running(argv: list[str], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Starts `argv` and yields the process. RumplabError if its exit status isn't 0; after an exception in the block,
    kills it."""
    environment = child_environment.of(child_environment.TOOL)
    with children.running(argv, subprocess.Popen.kill, environment, stderr=subprocess.PIPE, **streams) as process:
        yield process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        if process.wait(WAIT):
            raise RumplabError(f"{ZSTD} failed: {said or f'status {process.returncode}'}")


class Forward:
    """A stream that tarfile reads, from a pipe. tarfile trusts the lengths in headers, so a read of more than LONGEST
    bytes is refused. It seeks forward, and back by one block at most."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._at, self._end, self._last = 0, 0, b""

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Returns up to `size` bytes. tarfile.ReadError if that is too many."""
        if not 0 <= size <= LONGEST:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        back = self._end - self._at
        pieces = [self._last[len(self._last) - back :][:size]]
        missing = size - len(pieces[0])
        while missing and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
            self._end += len(piece)
            self._last = (self._last + piece)[-tarfile.BLOCKSIZE :]
        self._at += size - missing
        return b"".join(pieces)

    def seek(self, place: int) -> int:
        while self._at < place and self.read(min(place - self._at, LONGEST)):
            pass
        if self._end - place > len(self._last):
            raise tarfile.ReadError("its members overlap")
        self._at = min(place, self._at)
        return self._at


def pack(recording: Recording, output: Path) -> None:
    """Writes the recording to the file `output`, which appears only when it is complete. RumplabError if the files are
    larger than unpacked() accepts."""
    names = (RECORD, *recording.hashes)
    if sum((recording.directory / name).stat().st_size for name in names) > MOST:
        raise RumplabError(
            f"the files of {recording.name} have more than {MOST >> 30} GiB, with their holes; copy its directory"
            f" instead: cp -r --sparse=always {recording.directory} COPY"
        )
    argv = [program(), LEVEL, "--quiet", "--stdout"]
    with temporary_file(output.parent) as path:
        with (
            path.open("wb") as target,
            running(argv, stdin=subprocess.PIPE, stdout=target) as process,
            tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name in names:
                archive.add(recording.directory / name, f"{recording.name}/{name}", recursive=False)
        path.replace(output)


@contextlib.contextmanager
def unpacked(source: Path, parent: Path) -> Iterator[Recording]:
    """Unpacks the file `source` into a temporary directory in `parent`, and yields the recording, which the caller may
    move. It takes at most half of the free space. RumplabError if the file isn't a complete packed recording."""
    # A killed process may have left a directory.
    sweep(parent)
    with temporary_directory(parent) as directory:
        directory.chmod(0o700)
        try:
            with (
                opened(source) as given,
                running(
                    [program(), "--decompress", "--quiet", "--stdout"], stdin=given, stdout=subprocess.PIPE
                ) as zstd,
            ):
                found = extract(zstd.stdout, directory, source)  # type: ignore[arg-type]
        except (tarfile.TarError, EOFError, *MALFORMED) as error:
            raise RumplabError(f"{source} is not a complete packed recording ({error}); copy it again") from error
        yield record.read(found)


@contextlib.contextmanager
def opened(source: Path) -> Iterator[IO[bytes]]:
    """Opens a packed recording. RumplabError if there is no such file."""
    try:
        stack = contextlib.ExitStack()
        given = stack.enter_context(regular.opened(source))
    except OSError as error:
        raise RumplabError(
            f"{source}: {error.strerror}; name a file that 'rumplab recording pack' has written"
        ) from error
    with stack:
        yield given


def extract(given: IO[bytes], directory: Path, source: Path) -> Path:
    """Writes the files of the archive that the pipe `given` contains to a directory in `directory`, and returns its
    path. Reads to the end of the pipe: otherwise zstd would wait for a reader until it is closed, and fail.
    RumplabError or an exception of tarfile if it isn't a packed recording."""
    # TarFile uses only read, seek and tell.
    stream: IO[bytes] = Forward(given)  # type: ignore[assignment]
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        found = write_members(archive, directory, source)
    stream.seek(MOST)
    return found


def write_members(archive: tarfile.TarFile, directory: Path, source: Path) -> Path:
    """Writes the archive's files to a directory in `directory`, and returns its path. RumplabError for a member that
    its record, the first member, doesn't name, and if the files take too much space."""
    members = iter(archive)
    first = next(members, None)
    place = Path(first.name) if first is not None else Path()
    if first is None or len(place.parts) != 2 or place.name != RECORD or not plain(first) or first.size > LARGEST:
        raise RumplabError(f"{source} contains no recording; name a file of 'rumplab recording pack'")
    target = directory / place.parent
    if target.parent != directory or not place.parent.name.isprintable() or target.name == "..":
        raise RumplabError(f"{source} contains {place.parent.name!r}, which can't name a recording; don't use it")
    target.mkdir(0o700)
    budget = Budget(directory, source)
    copying.written(content(archive, first), target / RECORD, budget.spend)
    missing = dict.fromkeys(record.read(target).hashes)
    for member in members:
        name = member.name[len(f"{place.parent}/") :]
        if member.name != f"{place.parent}/{name}" or not plain(member):
            raise RumplabError(f"{source} contains {member.name!r}, which is not a file of a recording; don't use it")
        if name not in missing:
            raise RumplabError(f"{source} contains {member.name!r} twice, or without need; don't use it")
        del missing[name]
        budget.read(member.size)
        copying.written(content(archive, member), target / name, budget.spend)
    return target


def plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:
        raise tarfile.ReadError(f"{member.name!r} has no content")
    return stream


class Budget:
    """Limits what an archive unpacks to: half of the free space in `directory`, and MOST bytes with holes."""

    def __init__(self, directory: Path, source: Path) -> None:
        self._source, self._directory = source, directory
        self._space, self._bytes = shutil.disk_usage(directory).free // 2, MOST

    def spend(self, count: int) -> None:
        self._space -= count
        if self._space < 0:
            raise RumplabError(
                f"{self._source} takes more than half of the free space in {self._directory.parent}; free some space"
            )

    def read(self, size: int) -> None:
        self._bytes -= size
        if self._bytes < 0:
            raise RumplabError(f"{self._source} unpacks to more than {MOST >> 30} GiB; don't use it")
