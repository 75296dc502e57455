"""Unpacking source archives."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from typing import IO, cast

from .errors import Broken
from .members import Allowance, Bounded, allowance, checked

# What a file that is no archive, or only half of one, makes the unpackers raise.
UNREADABLE = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
# What the formats' files begin with.
PACKERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))


def opened(stream: IO[bytes]) -> IO[bytes]:
    """Return what is packed in the stream, be it by gzip, bzip2, xz or not at all."""
    start = stream.read(6)
    stream.seek(0)
    for magic, unpacker in PACKERS:
        if start.startswith(magic):
            return cast(IO[bytes], unpacker(stream, "rb"))
    return stream


def reading(content: IO[bytes]) -> tarfile.TarFile:
    """Open what isn't packed (any more)."""
    return tarfile.open(fileobj=cast(IO[bytes], Bounded(content)), mode="r:")


def extract(archive: tarfile.TarFile, directory: str, allowed: Allowance | None = None) -> None:
    """Extract the archive into `directory`; Broken or tarfile.TarError for what would leave it, or is a device.

    What an archive before it has put there is replaced. Unless `allowed` says else, it unpacks to no more than is
    declared.
    """
    os.makedirs(directory, exist_ok=True)
    # All that Python's own filters see to has been seen to, in old Pythons too, which have none.
    archive.extraction_filter = lambda member, path: member
    archive.extractall(directory, members=checked(archive, directory, allowed or allowance()))


def unpack_over(path: str, directory: str) -> None:
    """Unpack the tar archive (gz, bz2, xz or none) into `directory`, over what is there."""
    os.makedirs(directory, exist_ok=True)
    try:
        with open(path, "rb") as stream, opened(stream) as content, reading(content) as archive:
            extract(archive, directory)
    except UNREADABLE as error:
        raise Broken(f"{os.path.basename(path)} can't be unpacked: {error}") from error
    except OSError as error:
        # What bz2 says of a damaged file; the system's errors have a number.
        if error.errno is None:
            raise Broken(f"{os.path.basename(path)} can't be unpacked: {error}") from error
        raise


def unpack(path: str, directory: str) -> str:
    """Unpack the tar archive (gz, bz2, xz or none) into `directory` and return the source's top directory.

    The top is the one directory in the archive, or `directory` where there are several entries.
    """
    unpack_over(path, directory)
    entries = os.listdir(directory)
    if len(entries) == 1 and os.path.isdir(os.path.join(directory, entries[0])):
        return os.path.join(directory, entries[0])
    return directory
