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


def extract(archive: tarfile.TarFile, directory: str) -> None:
    """Extract the archive into `directory`; Broken or tarfile.TarError for what would leave it, or is a device."""
    if hasattr(tarfile, "tar_filter"):
        archive.extractall(directory, filter=lambda member, path: tarfile.tar_filter(_refuse_device(member), path))
    else:
        root = os.path.realpath(directory)
        archive.extractall(directory, members=(_inside(member, root) for member in archive))


def unpack(path: str, directory: str) -> str:
    """Unpack the tar archive (gz, bz2, xz or none) into `directory` and return the source's top directory.

    The top is the one directory in the archive, or `directory` where there are several entries.
    """
    os.makedirs(directory)
    try:
        with tarfile.open(path) as archive:
            extract(archive, directory)
    except UNREADABLE as error:
        raise Broken(f"{os.path.basename(path)} can't be unpacked: {error}") from error
    entries = os.listdir(directory)
    if len(entries) == 1 and os.path.isdir(os.path.join(directory, entries[0])):
        return os.path.join(directory, entries[0])
    return directory
