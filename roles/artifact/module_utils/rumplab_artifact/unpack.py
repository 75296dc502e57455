"""Unpacking source archives."""

from __future__ import annotations

import os
import tarfile

from .errors import Broken


def _members_inside(archive: tarfile.TarFile, directory: str) -> list[tarfile.TarInfo]:
    root = os.path.realpath(directory)
    members = []
    for member in archive:
        target = os.path.realpath(os.path.join(root, member.name))
        if target != root and not target.startswith(root + os.sep):
            raise Broken(f"the archive has a member outside its directory: {member.name}")
        if member.isdev():
            raise Broken(f"the archive has a device in it: {member.name}")
        members.append(member)
    return members


def unpack(path: str, directory: str) -> str:
    """Unpack the tar archive (gz, bz2, xz or none) into `directory` and return the source's top directory.

    The top is the one directory in the archive, or `directory` where there are several entries.
    """
    os.makedirs(directory)
    try:
        with tarfile.open(path) as archive:
            if hasattr(tarfile, "tar_filter"):
                archive.extractall(directory, filter="tar")
            else:
                archive.extractall(directory, members=_members_inside(archive, directory))
    except (tarfile.TarError, EOFError) as error:
        raise Broken(f"{os.path.basename(path)} can't be unpacked: {error}") from error
    entries = os.listdir(directory)
    if len(entries) == 1 and os.path.isdir(os.path.join(directory, entries[0])):
        return os.path.join(directory, entries[0])
    return directory
