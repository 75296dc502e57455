"""Unpacking source archives: tar archives, and Debian packages, which are ar archives of them.

Python reads both by itself: a host needs neither ar, nor xz, nor dpkg.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
import zlib
from typing import IO, Any, cast

from .errors import Broken
from .members import Allowance, Bounded, allowance, checked

# ar(5): what an archive begins with, and the size of a member's header and of its parts.
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
AR_NAME, AR_SIZE, AR_END = slice(0, 16), slice(48, 58), slice(58, 60)

# What a file that is no archive, or only half of one, makes the unpackers raise. DAMAGED: of numbers and names that no
# file can have, and of bz2, which doesn't bear to be asked again.
DAMAGED = (ValueError, OverflowError, RuntimeError)
UNREADABLE = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, *DAMAGED)
# Errors that the archive's own names lead to: too long, or a file where there is to be a directory.
OF_NAMES = (None, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL)
# What the formats' files begin with.
ZSTD = b"\x28\xb5\x2f\xfd"
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
    """Open what isn't packed (any more), or is packed in the way that only newer Pythons know."""
    packed = content.read(len(ZSTD)) == ZSTD
    content.seek(0)
    # No other mode: what is packed once more would be read through a stream that isn't bounded.
    mode: Any = "r:zst" if packed else "r:"
    return tarfile.open(fileobj=cast(IO[bytes], Bounded(content)), mode=mode)


def extract(archive: tarfile.TarFile, directory: str, allowed: Allowance | None = None) -> None:
    """Extract the archive into `directory`; Broken or tarfile.TarError for what would leave it, or is a device.

    What an archive before it has put there is replaced. Unless `allowed` says else, it unpacks to no more than is
    declared.
    """
    os.makedirs(directory, exist_ok=True)
    # All that Python's own filters see to has been seen to, in old Pythons too, which have none.
    archive.extraction_filter = lambda member, path: member
    archive.extractall(directory, members=checked(archive, directory, allowed or allowance()))


def package_data(stream: IO[bytes], name: str) -> IO[bytes]:
    """Return the tar archive of a Debian package's files; `stream` stands after AR_MAGIC."""
    while header := stream.read(AR_HEADER):
        size = header[AR_SIZE].strip()
        if header[AR_END] != b"`\n" or not size.isdigit():
            raise Broken(f"{name} can't be unpacked: it is no package, or a damaged one")
        member = header[AR_NAME].decode("ascii", "replace").strip().rstrip("/")
        if member.startswith("data.tar"):
            content = stream.read(int(size))
            if len(content) < int(size):
                raise Broken(f"{name} can't be unpacked: it is cut off")
            if member.endswith(".zst") and not hasattr(tarfile.TarFile, "zstopen"):
                raise Broken(f"{name} is compressed with zstd, which Python reads from 3.14 on only")
            return io.BytesIO(content)
        # Members begin at even places.
        stream.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise Broken(f"{name} can't be unpacked: a package has data.tar in it, this has none")


def _contents(stream: IO[bytes], name: str) -> IO[bytes]:
    """Return the tar archive in a file, which may be a Debian package."""
    if stream.read(len(AR_MAGIC)) == AR_MAGIC:
        return opened(package_data(stream, name))
    stream.seek(0)
    return opened(stream)


def unpack_over(path: str, directory: str) -> None:
    """Unpack the tar archive (gz, bz2, xz or none) or Debian package into `directory`, over what is there."""
    os.makedirs(directory, exist_ok=True)
    name = os.path.basename(path)
    try:
        with open(path, "rb") as stream, _contents(stream, name) as content, reading(content) as archive:
            extract(archive, directory)
    except UNREADABLE as error:
        raise Broken(f"{name} can't be unpacked: {error}") from error
    except OSError as error:
        # What bz2 says of a damaged file has no number; the system's errors have one.
        if error.errno in OF_NAMES:
            raise Broken(f"{name} can't be unpacked: {error}") from error
        raise


def unpack(path: str, directory: str) -> str:
    """Unpack the archive (as `unpack_over` does) into `directory` and return the source's top directory.

    The top is the one directory in the archive, or `directory` where there are several entries.
    """
    unpack_over(path, directory)
    entries = os.listdir(directory)
    if len(entries) == 1 and os.path.isdir(os.path.join(directory, entries[0])):
        return os.path.join(directory, entries[0])
    return directory
