"""Unpacking source archives: tar archives, and Debian packages, which are ar archives of them.

Python reads both by itself: a host needs neither ar, nor xz, nor dpkg.
"""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zlib
from typing import IO

from .errors import Broken

# ar(5): what an archive begins with, and the size of a member's header and of its parts.
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
AR_NAME, AR_SIZE, AR_END = slice(0, 16), slice(48, 58), slice(58, 60)

# What a file that is no archive, or only half of one, makes the unpackers raise.
UNREADABLE = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error)


def _refuse_device(member: tarfile.TarInfo) -> tarfile.TarInfo:
    if member.isdev():
        raise Broken(f"the archive has a device in it: {member.name}")
    return member


def _inside(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo:
    target = os.path.realpath(os.path.join(directory, member.name))
    if target != directory and not target.startswith(directory + os.sep):
        raise Broken(f"the archive has a member outside its directory: {member.name}")
    return _refuse_device(member)


def _make_way(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo:
    """Remove what stands where the member goes, be it a link or a file that can't be written, but no directory."""
    target = os.path.join(directory, member.name)
    if os.path.islink(target) or os.path.isfile(target):
        os.unlink(target)
    return member


def extract(archive: tarfile.TarFile, directory: str) -> None:
    """Extract the archive into `directory`; Broken or tarfile.TarError for what would leave it, or is a device.

    What an archive before it has put there is replaced.
    """
    if hasattr(tarfile, "tar_filter"):
        archive.extractall(
            directory,
            filter=lambda member, path: _make_way(tarfile.tar_filter(_refuse_device(member), path), path),
        )
    else:
        root = os.path.realpath(directory)
        archive.extractall(directory, members=(_make_way(_inside(member, root), root) for member in archive))


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


def _open_archive(stream: IO[bytes], name: str) -> tarfile.TarFile:
    if stream.read(len(AR_MAGIC)) == AR_MAGIC:
        return tarfile.open(fileobj=package_data(stream, name))
    stream.seek(0)
    return tarfile.open(fileobj=stream)


def unpack_over(path: str, directory: str) -> None:
    """Unpack the tar archive (gz, bz2, xz or none) or Debian package into `directory`, over what is there."""
    os.makedirs(directory, exist_ok=True)
    name = os.path.basename(path)
    try:
        with open(path, "rb") as stream, _open_archive(stream, name) as archive:
            extract(archive, directory)
    except UNREADABLE as error:
        raise Broken(f"{name} can't be unpacked: {error}") from error


def unpack(path: str, directory: str) -> str:
    """Unpack the archive (as `unpack_over` does) into `directory` and return the source's top directory.

    The top is the one directory in the archive, or `directory` where there are several entries.
    """
    unpack_over(path, directory)
    entries = os.listdir(directory)
    if len(entries) == 1 and os.path.isdir(os.path.join(directory, entries[0])):
        return os.path.join(directory, entries[0])
    return directory
