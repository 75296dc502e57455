"""The mounts that show a user's files to a container: each at its own path, and read-only unless it must be written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from rumplab.errors import RumplabError

# Directories that the image needs; a mount must not cover them.
NEEDED = (
    *("/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys"),
    *("/usr/bin", "/usr/lib", "/usr/sbin", "/usr/local/bin", "/usr/share"),
)
# Files in these directories have another meaning in a container.
KERNEL = ("/dev", "/proc", "/sys")
# The directories below the prefix that an image has as well.
OF_PREFIX = ("etc", "rumplab", "store")


@dataclass(frozen=True)
class Mount:
    """A file or directory of the host. `path` is its absolute path on the host and in the container."""

    path: str
    writable: bool = False

    def option(self) -> str:
        """The value of docker's ``--mount``: a line of comma-separated values in the format of RFC 4180."""
        values = ["type=bind", f"source={os.path.realpath(self.path)}", f"target={self.path}"]
        if not self.writable:
            values.append("readonly")
        return ",".join(map(_field, values))


def _field(text: str) -> str:
    plain = not any(character in text for character in ',"\n')
    return text if plain else '"' + text.replace('"', '""') + '"'


def collect(read: Iterable[str], written: Iterable[str], prefix: str) -> list[Mount]:
    """The mounts for the files `read` and the writable directories `written`, sorted by path. `prefix` is the lab's
    prefix in the container.

    A missing file is left out; the tool in the container reports it. RumplabError for a path that can't be mounted.
    """
    wanted: dict[str, bool] = {}
    for path in read:
        wanted.setdefault(os.path.abspath(path), False)
    for path in written:
        wanted[os.path.abspath(path)] = True
    present = {path: writable for path, writable in wanted.items() if os.path.exists(path)}
    for path in present:
        check(path, prefix)
    return [Mount(path, present[path]) for path in sorted(present) if not _is_covered(path, present)]


def _is_covered(path: str, mounts: dict[str, bool]) -> bool:
    """Whether another mount contains `path`, with the same access, and no symbolic link between the two leads outside
    it."""
    return any(
        (writable or not mounts[path])
        and other != path
        and PurePosixPath(other) in PurePosixPath(path).parents
        and os.path.realpath(path) == os.path.join(os.path.realpath(other), os.path.relpath(path, other))
        for other, writable in mounts.items()
    )


def possible(path: str, prefix: str) -> bool:
    """Whether `path` can be mounted at its own path."""
    try:
        check(path, prefix)
    except RumplabError:
        return False
    return True


def check(path: str, prefix: str) -> None:
    """RumplabError when `path` can't be mounted at its own path."""
    # docker drops carriage returns from the option, and passes the path to the engine as JSON, which is Unicode.
    if "\r" in path or path != path.encode(errors="replace").decode():
        raise RumplabError(f"{path!r} can't be mounted in a container: its name isn't plain UTF-8; rename it")
    here = PurePosixPath(path)
    for place in KERNEL:
        if PurePosixPath(place) in here.parents:
            raise RumplabError(f"{path} can't be mounted in a container, which has its own {place}; copy it elsewhere")
    for place in (*NEEDED, *(os.path.join(prefix, name) for name in OF_PREFIX)):
        if here == PurePosixPath(place) or here in PurePosixPath(place).parents:
            raise RumplabError(
                f"{path} can't be mounted in a container, which needs its own {place}; use another directory"
            )
