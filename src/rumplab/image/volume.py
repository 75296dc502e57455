"""A directory of the host as a further partition of an image: what is in it, and debugfs's commands for it.

What is kept of a file is its name, its content and whether its owner may execute it; of a symbolic link, its
target. Owners, other permissions and times are the same for everybody, so that a copy of the directory on
another machine gives the same partition.
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
# mke2fs makes it; a directory that is a mounted file system has one of its own, which only root can read.
LEFT_OUT = "lost+found"
# debugfs reads its commands in lines of at most so many bytes.
LONGEST_COMMAND = 8000
ENTRY_HEAD = 8
DIRECTORY, FILE, EXECUTABLE, LINK = "directory", "file", "executable", "link"


@dataclass(frozen=True)
class Entry:
    """Something in a volume: its `path` from the volume's top, the `size` in bytes of a file, the `target` of
    a link."""

    path: str
    kind: str
    size: int = 0
    target: str = ""


@dataclass(frozen=True)
class Volume:
    """A directory, the label of its partition, and everything in it, each directory before its content."""

    directory: Path
    label: str
    entries: tuple[Entry, ...]

    @property
    def inodes(self) -> int:
        return len(self.entries)

    @property
    def contents(self) -> list[int]:
        """The sizes in bytes of everything in it, as files: directories and links take blocks too."""
        names: dict[str, int] = {"": 0}
        for entry in self.entries:
            parent = os.path.dirname(entry.path)
            names[parent] = names.get(parent, 0) + ENTRY_HEAD + 4 + len(os.fsencode(entry.path))
        # An entry doesn't cross the end of a block, so a block may be half empty.
        directories = [2 * size + BLOCK for size in names.values()]
        return directories + [entry.size or len(entry.target) for entry in self.entries]


def parse(argument: str, number: int) -> tuple[Path, str]:
    """DIR or DIR:LABEL of `--volume`, the `number`th one. Without a label it is `dataNUMBER`.

    A directory whose own name has a colon in it is taken as it is. UsageError for a label that can't be.
    """
    directory, colon, label = argument.rpartition(":")
    if not colon or os.path.isdir(argument):
        return Path(argument), f"data{number}"
    if not LABEL.fullmatch(label) or label == RESERVED:
        raise UsageError(
            f"--volume {argument}: '{label}' can't be a label: use up to 16 letters, digits, '.', '_'"
            f" and '-', and not '{RESERVED}'"
        )
    return Path(directory), label


def read_all(arguments: list[str]) -> tuple[Volume, ...]:
    """The volumes that `--volume` asks for. UsageError for too many, or two of a label."""
    if len(arguments) > MOST:
        raise UsageError(f"an image has at most {MOST} volumes: an MBR has four partitions and one boots")
    parsed = [parse(argument, number) for number, argument in enumerate(arguments, 1)]
    labels = [label for _, label in parsed]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"two volumes are labelled '{label}'; give each --volume DIR:LABEL another one")
    return tuple(read(Path(os.path.abspath(directory)), label) for directory, label in parsed)


def read(directory: Path, label: str) -> Volume:
    """What `directory` holds. RumplabError for what a file system of files can't hold, or can't be read."""
    return Volume(directory, label, tuple(walk(directory, "")))


def walk(top: Path, below: str) -> Iterator[Entry]:
    """The entries of the directory `below` in `top`, by name, each directory's content behind it."""
    # However deep it goes: no call within a call.
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
    """The entries of the directory `below` in `top` alone, by name."""
    try:
        # By bytes, which every locale and every file system sorts alike.
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
    """One entry of the host's directory. RumplabError names one that has no place in an image."""
    if any(character < " " or character == "\x7f" for character in item.name):
        raise RumplabError(f"{item.path!r}: a control character in a name can't go into an image; rename it")
    status = item.stat(follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(item.path)
        if "\n" in target or "\r" in target:
            raise RumplabError(f"{item.path}: a line break in a link's target can't go into an image")
        return Entry(path, LINK, target=target)
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, DIRECTORY)
    if not stat.S_ISREG(status.st_mode):
        raise RumplabError(f"{item.path} is no file, directory or link; leave it out of the volume")
    if not os.access(item.path, os.R_OK):
        raise RumplabError(f"cannot read {item.path}: Permission denied")
    kind = EXECUTABLE if status.st_mode & stat.S_IXUSR else FILE
    return Entry(path, kind, size=status.st_size)


def quote(word: str) -> str:
    """`word` as one argument of a command of debugfs."""
    return '"' + word.replace('"', '""') + '"'


def inner(path: str) -> str:
    """`path` in the volume for debugfs: absolute, since it takes a name like <2> for an inode's number, and
    with a dot, since it takes the empty parent of /name for its working directory."""
    return quote(f"/./{path}")


def commands(entry: Entry, source: str) -> list[str]:
    """debugfs's commands that make `entry` of what lies below `source`, a link to the host's directory."""
    if entry.kind == DIRECTORY:
        return [f"mkdir {inner(entry.path)}"]
    if entry.kind == LINK:
        return [f"symlink {inner(entry.path)} {quote(entry.target)}"]
    parent, name = os.path.split(entry.path)
    mode = "0100755" if entry.kind == EXECUTABLE else "0100644"
    place = inner(entry.path)
    return [
        # `write` makes its file in the working directory, and takes its name as it stands.
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
    """The input of debugfs that fills the volume's partition; `time` is that of all files in it."""
    lines = [f"set_current_time @{time}"]
    for entry in volume.entries:
        lines += commands(entry, source)
    return b"".join(os.fsencode(line) + b"\n" for line in lines)
