"""Unpacking source archives."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib

from .errors import Broken

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


def unpack_over(path: str, directory: str) -> None:
    """Unpack the tar archive (gz, bz2, xz or none) into `directory`, over what is there."""
    os.makedirs(directory, exist_ok=True)
    try:
        with tarfile.open(path) as archive:
            extract(archive, directory)
    except UNREADABLE as error:
        raise Broken(f"{os.path.basename(path)} can't be unpacked: {error}") from error


def unpack(path: str, directory: str) -> str:
    """Unpack the tar archive (gz, bz2, xz or none) into `directory` and return the source's top directory.

    The top is the one directory in the archive, or `directory` where there are several entries.
    """
    unpack_over(path, directory)
    entries = os.listdir(directory)
    if len(entries) == 1 and os.path.isdir(os.path.join(directory, entries[0])):
        return os.path.join(directory, entries[0])
    return directory
