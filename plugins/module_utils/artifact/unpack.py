"""Unpack source archives: tar archives, and Debian packages, which are ar archives of tar archives.

This uses only Python's standard library, so a host needs neither ar, nor xz, nor dpkg.
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

# ar(5): the magic string, the size of a member's header, and the fields in it.
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
AR_NAME, AR_SIZE, AR_END = slice(0, 16), slice(48, 58), slice(58, 60)

# The exceptions that tarfile and the decompressors raise for a file that isn't an archive or is incomplete. DAMAGED:
# impossible numbers and names in headers, and a second read from bz2 after an error.
DAMAGED = (ValueError, OverflowError, RuntimeError)
UNREADABLE = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, *DAMAGED)
# errno values that names in the archive cause: too long, or a file at the path of a directory.
OF_NAMES = (None, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL)
# The formats' magic numbers.
ZSTD = b"\x28\xb5\x2f\xfd"
PACKERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))


def opened(stream: IO[bytes]) -> IO[bytes]:
    """Return the stream decompressed: by gzip, bzip2 or xz, or as it is."""
    start = stream.read(6)
    stream.seek(0)
    for magic, unpacker in PACKERS:
        if start.startswith(magic):
            return cast(IO[bytes], unpacker(stream, "rb"))
    return stream


def reading(content: IO[bytes]) -> tarfile.TarFile:
    """Open a tar archive that is uncompressed, or compressed with zstd, which only newer Pythons read."""
    packed = content.read(len(ZSTD)) == ZSTD
    content.seek(0)
    # No other mode: tarfile would read a second compression through a stream that isn't Bounded.
    mode: Any = "r:zst" if packed else "r:"
    return tarfile.open(fileobj=cast(IO[bytes], Bounded(content)), mode=mode)


def extract(archive: tarfile.TarFile, directory: str, allowed: Allowance | None = None) -> None:
    """Extract the archive into `directory`; Broken or tarfile.TarError for a member outside it, or a device.

    Existing files are replaced. `allowed` limits the size; by default, the request's declared size does.
    """
    os.makedirs(directory, exist_ok=True)
    # `checked` does what Python's own filters do, and also works in older Pythons, which have no filters.
    archive.extraction_filter = lambda member, path: member
    archive.extractall(directory, members=checked(archive, directory, allowed or allowance()))


def package_data(stream: IO[bytes], name: str) -> IO[bytes]:
    """Return the tar archive of a Debian package's files; `stream` is positioned after AR_MAGIC."""
    while header := stream.read(AR_HEADER):
        size = header[AR_SIZE].strip()
        if header[AR_END] != b"`\n" or not size.isdigit():
            raise Broken(f"{name} can't be unpacked: it is no package, or is damaged")
        member = header[AR_NAME].decode("ascii", "replace").strip().rstrip("/")
        if member.startswith("data.tar"):
            content = stream.read(int(size))
            if len(content) < int(size):
                raise Broken(f"{name} can't be unpacked: it is truncated")
            if member.endswith(".zst") and not hasattr(tarfile.TarFile, "zstopen"):
                raise Broken(f"{name} is compressed with zstd; unpacking it needs Python 3.14 or later")
            return io.BytesIO(content)
        # Members begin at even offsets.
        stream.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise Broken(f"{name} can't be unpacked: it has no member data.tar")


def _contents(stream: IO[bytes], name: str) -> IO[bytes]:
    """Return the decompressed tar archive in a file, which may be a Debian package."""
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
        # bz2's OSError for a damaged file has no errno; other errors of the system are not the archive's fault.
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
