"""Which of the user's files a container sees: each under its own name, and written only where it has to be."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from rumplab.errors import RumplabError

# What the image itself needs in its place: no mount may cover it.
NEEDED = (
    *("/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys"),
    *("/usr/bin", "/usr/lib", "/usr/sbin", "/usr/local/bin", "/usr/share"),
)
# No file of the host's there means the same in a container.
KERNEL = ("/dev", "/proc", "/sys")
# What lies below the prefix in an image, too.
OF_PREFIX = ("etc", "rumplab", "store")


@dataclass(frozen=True)
class Mount:
    """A file or directory of the host, by its absolute path, which is the same in the container."""

    path: str
    writable: bool = False

    def option(self) -> str:
        """The value of docker's ``--mount``: a line of comma-separated values, as RFC 4180 writes them."""
        values = ["type=bind", f"source={os.path.realpath(self.path)}", f"target={self.path}"]
        if not self.writable:
            values.append("readonly")
        return ",".join(map(_field, values))


def _field(text: str) -> str:
    plain = not any(character in text for character in ',"\n')
    return text if plain else '"' + text.replace('"', '""') + '"'


def collect(read: Iterable[str], written: Iterable[str], prefix: str) -> list[Mount]:
    """The mounts for files that are only read and for directories that are written to, by path.

    What doesn't exist is left out, for the tool to complain about. RumplabError for what a container can't have:
    `prefix` is where the lab stands in it.
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
    """Whether another mount shows this very file there already, and no link leads out of it."""
    return any(
        (writable or not mounts[path])
        and other != path
        and PurePosixPath(other) in PurePosixPath(path).parents
        and os.path.realpath(path) == os.path.join(os.path.realpath(other), os.path.relpath(path, other))
        for other, writable in mounts.items()
    )


def possible(path: str, prefix: str) -> bool:
    """Whether `path` can be mounted under its own name."""
    try:
        check(path, prefix)
    except RumplabError:
        return False
    return True


def check(path: str, prefix: str) -> None:
    """RumplabError when `path` can't be mounted under its own name."""
    # The engine is told names as JSON, whose text is Unicode, in a line that drops carriage returns.
    if "\r" in path or path != path.encode(errors="replace").decode():
        raise RumplabError(f"{path!r} can't be given to a container: its name isn't plain UTF-8; rename it")
    here = PurePosixPath(path)
    for place in KERNEL:
        if PurePosixPath(place) in here.parents:
            raise RumplabError(f"{path} can't be given to a container, which has its own {place}; copy it elsewhere")
    for place in (*NEEDED, *(os.path.join(prefix, name) for name in OF_PREFIX)):
        if here == PurePosixPath(place) or here in PurePosixPath(place).parents:
            raise RumplabError(
                f"{path} can't be given to a container, which needs its own {place}; use a directory of your own"
            )
