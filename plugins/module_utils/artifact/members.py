"""What an archive may put where: nothing outside of its directory, and no more than was declared."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO

from .errors import Broken

MEBIBYTE = 1 << 20
# What a file takes on a disk at least.
BLOCK = 4096
# The longest piece that an archive's reader needs at once is a header; contents come in small pieces.
LONGEST_READ = 64 * MEBIBYTE


class Allowance:
    """How many MiB archives may unpack to, all together; 0 is as many as there is room for."""

    def __init__(self, mebibytes: int = 0) -> None:
        self.mebibytes, self.left = mebibytes, mebibytes * MEBIBYTE

    def take(self, size: int, name: str) -> None:
        """Count a file; Broken when it is one too many."""
        if not self.mebibytes:
            return
        self.left -= -(-size // BLOCK) * BLOCK or BLOCK
        if self.left < 0:
            raise Broken(
                f"the archive unpacks to more than the {self.mebibytes} MiB that are declared for it (artifact_space), "
                f"the last being {name}: either it isn't the one that is meant, or more has to be declared"
            )


# What the request that this process works on declares.
_declared = [Allowance()]


@contextlib.contextmanager
def declared(mebibytes: int) -> Iterator[None]:
    """Hold all archives of a request, while it is worked on, to what it declares."""
    _declared.append(Allowance(mebibytes))
    try:
        yield
    finally:
        _declared.pop()


def allowance() -> Allowance:
    """Return what archives may unpack to."""
    return _declared[-1]


class Bounded:
    """A stream from which nobody reads more at once than there can be in a header; tarfile believes any length."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        if size < 0 or size > LONGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.stream.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place."""
        return self.stream.seek(place, whence)

    def tell(self) -> int:
        """Return where we are."""
        return self.stream.tell()


def _within(root: str, path: str) -> bool:
    return path == root or path.startswith(root + os.sep)


def _check_place(member: tarfile.TarInfo, root: str) -> None:
    """Raise Broken where the member, by its name or by a link that an earlier one made, goes elsewhere."""
    place = os.path.join(root, member.name)
    # The last part may be a link that is in the way: that one is removed, not followed.
    parent = os.path.realpath(os.path.dirname(place.rstrip("/")))
    if os.path.isabs(member.name) or not _within(root, os.path.normpath(place)) or not _within(root, parent):
        raise Broken(f"the archive has a member outside its directory: {member.name}")


def _check_source(member: tarfile.TarInfo, root: str) -> None:
    """Raise Broken where a hard link would give a file outside of the directory another name in it."""
    source = os.path.join(root, member.linkname)
    inside = not os.path.isabs(member.linkname) and _within(root, os.path.normpath(source))
    if not inside or not _within(root, os.path.realpath(source)):
        raise Broken(f"the archive links {member.name} to a file outside its directory: {member.linkname}")
    # tarfile would unpack the file's content once more, uncounted.
    if not os.path.exists(source):
        raise Broken(f"the archive links {member.name} to a file that isn't there: {member.linkname}")


def _make_way(member: tarfile.TarInfo, root: str) -> None:
    """Remove what stands where the member goes, be it a link or a file that can't be written, but no directory."""
    place = os.path.join(root, member.name)
    if os.path.islink(place) or os.path.isfile(place):
        os.unlink(place)


def checked(archive: tarfile.TarFile, directory: str, allowed: Allowance) -> Iterator[tarfile.TarInfo]:
    """Yield the archive's members, each when those before it are unpacked and just before it is; Broken for a bad one.

    Set-user-ID bits, and permission for others to write, are left out.
    """
    root = os.path.realpath(directory)
    for member in archive:
        if member.isdev():
            raise Broken(f"the archive has a device in it: {member.name}")
        _check_place(member, root)
        if member.islnk():
            _check_source(member, root)
            # Unpacked over itself, it would be gone by then.
            if os.path.normpath(member.linkname) == os.path.normpath(member.name):
                continue
        # What is of a kind that nobody knows is unpacked as a file.
        has_content = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        allowed.take(member.size if has_content else 0, member.name)
        _make_way(member, root)
        member.mode = stat.S_IMODE(member.mode) & 0o755
        yield member
