"""Check an archive's members: nothing may go outside the directory or exceed the declared size."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO

from .errors import Broken

MEBIBYTE = 1 << 20
# The least space, in bytes, that a file takes on disk.
BLOCK = 4096
# The longest read of an archive, in bytes: a header. tarfile reads contents in smaller pieces.
LONGEST_READ = 64 * MEBIBYTE


class Allowance:
    """The total size, in MiB, to which archives may unpack; 0 is no limit."""

    def __init__(self, mebibytes: int = 0) -> None:
        self.mebibytes, self.left = mebibytes, mebibytes * MEBIBYTE

    def take(self, size: int, name: str) -> None:
        """Subtract a file's size; Broken if the total exceeds the limit."""
        if not self.mebibytes:
            return
        self.left -= -(-size // BLOCK) * BLOCK or BLOCK
        if self.left < 0:
            raise Broken(
                f"the archive unpacks to more than the {self.mebibytes} MiB that artifact_space declares for it (at "
                f"{name}); check that it is the right archive, or declare more"
            )


# The limits of the requests that this process works on; the last one applies.
_declared = [Allowance()]


@contextlib.contextmanager
def declared(mebibytes: int) -> Iterator[None]:
    """Apply a request's size limit to the archives that the block unpacks."""
    _declared.append(Allowance(mebibytes))
    try:
        yield
    finally:
        _declared.pop()


def allowance() -> Allowance:
    """Return the limit that applies now."""
    return _declared[-1]


class Bounded:
    """A stream that refuses to read more than LONGEST_READ at once: tarfile trusts the lengths in headers."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; tarfile.ReadError if that is too many."""
        if size < 0 or size > LONGEST_READ:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return self.stream.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        """Set the position."""
        return self.stream.seek(place, whence)

    def tell(self) -> int:
        """Return the position."""
        return self.stream.tell()


def _within(root: str, path: str) -> bool:
    return path == root or path.startswith(root + os.sep)


def _check_place(member: tarfile.TarInfo, root: str) -> None:
    """Raise Broken if the member would go outside `root`, by its name or by a link that an earlier member made."""
    place = os.path.join(root, member.name)
    # Only the parent is resolved: if the last part is a link, _remove_existing removes it.
    parent = os.path.realpath(os.path.dirname(place.rstrip("/")))
    if os.path.isabs(member.name) or not _within(root, os.path.normpath(place)) or not _within(root, parent):
        raise Broken(f"the archive has a member outside its directory: {member.name}")


def _check_source(member: tarfile.TarInfo, root: str) -> None:
    """Raise Broken if a hard link would link to a file outside `root`, or to none."""
    source = os.path.join(root, member.linkname)
    inside = not os.path.isabs(member.linkname) and _within(root, os.path.normpath(source))
    if not inside or not _within(root, os.path.realpath(source)):
        raise Broken(f"the archive links {member.name} to a file outside its directory: {member.linkname}")
    # For a missing source, tarfile would unpack the content again, without the size limit.
    if not os.path.exists(source):
        raise Broken(f"the archive links {member.name} to a missing file: {member.linkname}")


def _remove_existing(member: tarfile.TarInfo, root: str) -> None:
    """Remove a link or file (which may be read-only) at the member's path; keep a directory."""
    place = os.path.join(root, member.name)
    if os.path.islink(place) or os.path.isfile(place):
        os.unlink(place)


def checked(archive: tarfile.TarFile, directory: str, allowed: Allowance) -> Iterator[tarfile.TarInfo]:
    """Yield the archive's members; the caller must unpack each before it takes the next. Broken for a bad member.

    The modes of the members lose the set-user-ID and set-group-ID bits and write permission for group and others.
    """
    root = os.path.realpath(directory)
    for member in archive:
        if member.isdev():
            raise Broken(f"the archive contains a device: {member.name}")
        _check_place(member, root)
        if member.islnk():
            _check_source(member, root)
            # A link to itself: _remove_existing would delete the file.
            if os.path.normpath(member.linkname) == os.path.normpath(member.name):
                continue
        # tarfile unpacks a member of unknown type as a file.
        has_content = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        allowed.take(member.size if has_content else 0, member.name)
        _remove_existing(member, root)
        member.mode = stat.S_IMODE(member.mode) & 0o755
        yield member
