"""A directory of the host as an additional partition of an image: reads the directory, and makes debugfs's commands.

The partition keeps a file's name, its content and its owner's execute permission, and a symbolic link's target. Owners,
other permissions and times are fixed, so that a copy of the directory on another host gives the same partition.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError, UsageError
from rumplab.image.layout import BLOCK

MOST = 3
LABEL = re.compile(r"[A-Za-z0-9._-]{1,16}")
RESERVED = "boot"
# Skipped in the host's directory: mke2fs makes this directory itself, and in a mounted file system only root can read
# it.
LEFT_OUT = "lost+found"
# The longest command, in bytes, that debugfs reads.
LONGEST_COMMAND = 8000
ENTRY_HEAD = 8
DIRECTORY, FILE, EXECUTABLE, LINK = "directory", "file", "executable", "link"


@dataclass(frozen=True)
class Entry:
    """A file, directory or link in a volume: its `path` relative to the volume's top, a file's `size` in bytes, a
    link's `target`."""

    path: str
    kind: str
    size: int = 0
    target: str = ""


@dataclass(frozen=True)
class Volume:
    """A directory, the label of its partition, and its entries; each directory comes before its content."""

    directory: Path
    label: str
    entries: tuple[Entry, ...]

    @property
    def inodes(self) -> int:
        return len(self.entries)

    @property
    def contents(self) -> list[int]:
        """The sizes in bytes of all entries and of the top directory: directories and links need blocks as well."""
        names: dict[str, int] = {"": 0}
        for entry in self.entries:
            parent = os.path.dirname(entry.path)
            names[parent] = names.get(parent, 0) + ENTRY_HEAD + 4 + len(os.fsencode(entry.path))
        # A directory entry doesn't cross the end of a block, so a block may be half empty.
        directories = [2 * size + BLOCK for size in names.values()]
        return directories + [entry.size or len(entry.target) for entry in self.entries]


def parse(argument: str, number: int) -> tuple[Path, str]:
    """The directory and label in DIR or DIR:LABEL, the argument of the `number`th `--volume`. The default label is
    `dataNUMBER`.

    If the whole argument is an existing directory, a colon in it isn't a separator. UsageError for an invalid label.
    """
    directory, colon, label = argument.rpartition(":")
    if not colon or os.path.isdir(argument):
        return Path(argument), f"data{number}"
    if not LABEL.fullmatch(label) or label == RESERVED:
        raise UsageError(
            f"--volume {argument}: '{label}' is not a valid label: use up to 16 letters, digits, '.', '_'"
            f" and '-', and not '{RESERVED}'"
        )
    return Path(directory), label


def read_all(arguments: list[str]) -> tuple[Volume, ...]:
    """The volumes of the `--volume` options. UsageError for too many volumes, or two with the same label."""
    if len(arguments) > MOST:
        raise UsageError(
            f"an image has at most {MOST} volumes: an MBR has four partitions, and one is the boot partition"
        )
    parsed = [parse(argument, number) for number, argument in enumerate(arguments, 1)]
    labels = [label for _, label in parsed]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"two volumes have the label '{label}'; give each --volume DIR:LABEL another label")
    return tuple(read(Path(os.path.abspath(directory)), label) for directory, label in parsed)


def read(directory: Path, label: str) -> Volume:
    """The volume with the content of `directory`. RumplabError for an entry that can't be read or can't be in an
    image."""
    return Volume(directory, label, tuple(walk(directory, "")))


def walk(top: Path, below: str) -> Iterator[Entry]:
    """The entries below the directory `below` in `top`, sorted by name. A directory's content follows the directory."""
    # Iterative, because a recursion would limit the depth.
    waiting = [listed(top, below)]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            continue
        yield entry
        if entry.kind == DIRECTORY:
            waiting.append(listed(top, entry.path))


def listed(top: Path, below: str) -> Iterator[Entry]:
    """The entries directly in the directory `below` in `top`, sorted by name."""
    try:
        # Sorted by bytes, so that the order doesn't depend on the locale or the file system.
        found = sorted(os.scandir(top / below), key=lambda item: os.fsencode(item.name))
    except OSError as error:
        raise RumplabError(f"cannot read {top / below}: {error.strerror}") from error
    for item in found:
        if below == "" and item.name == LEFT_OUT:
            continue
        path = f"{below}/{item.name}" if below else item.name
        entry = inspect(item, path)
        if len(command_bytes(entry, "volume0")) > LONGEST_COMMAND:
            raise RumplabError(f"{item.path}: its path is too long for the image; shorten it")
        yield entry


def inspect(item: os.DirEntry[str], path: str) -> Entry:
    """The entry for `item` of the host's directory. RumplabError when it can't be in an image."""
    if any(character < " " or character == "\x7f" for character in item.name):
        raise RumplabError(f"{item.path!r}: a name in an image can't contain a control character; rename it")
    status = item.stat(follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(item.path)
        if "\n" in target or "\r" in target:
            raise RumplabError(f"{item.path}: a link's target in an image can't contain a line break; change the link")
        return Entry(path, LINK, target=target)
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, DIRECTORY)
    if not stat.S_ISREG(status.st_mode):
        raise RumplabError(f"{item.path} is not a file, directory or link; remove it from the volume")
    if not os.access(item.path, os.R_OK):
        raise RumplabError(f"cannot read {item.path}: Permission denied")
    kind = EXECUTABLE if status.st_mode & stat.S_IXUSR else FILE
    return Entry(path, kind, size=status.st_size)


def quote(word: str) -> str:
    """`word` as one argument of a debugfs command."""
    return '"' + word.replace('"', '""') + '"'


def inner(path: str) -> str:
    """`path` in the volume as an argument for debugfs. It is absolute, because debugfs reads a name like <2> as an
    inode number. It has a dot, because debugfs reads the empty parent of /name as its working directory."""
    return quote(f"/./{path}")


def commands(entry: Entry, source: str) -> list[str]:
    """debugfs's commands that make `entry`. `source` is the link to the host's directory."""
    if entry.kind == DIRECTORY:
        return [f"mkdir {inner(entry.path)}"]
    if entry.kind == LINK:
        return [f"symlink {inner(entry.path)} {quote(entry.target)}"]
    parent, name = os.path.split(entry.path)
    mode = "0100755" if entry.kind == EXECUTABLE else "0100644"
    place = inner(entry.path)
    return [
        # `write` makes its file in the working directory, and doesn't interpret the file's name.
        f"cd {inner(parent)}",
        f"write {quote(f'{source}/{entry.path}')} {quote(name)}",
        f"sif {place} mode {mode}",
        f"sif {place} uid 0",
        f"sif {place} gid 0",
    ]


def command_bytes(entry: Entry, source: str) -> bytes:
    """The longest command of `entry`."""
    return max((os.fsencode(command) for command in commands(entry, source)), key=len)


def population(volume: Volume, source: str, time: int) -> bytes:
    """The input of debugfs that fills the volume's partition. `time` (UNIX time in seconds) is the time of all
    files."""
    lines = [f"set_current_time @{time}"]
    for entry in volume.entries:
        lines += commands(entry, source)
    return b"".join(os.fsencode(line) + b"\n" for line in lines)
