"""Finds and creates the directories of recordings: the user's own ones, and those that --record=DIR named."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rumplab.errors import RumplabError, UsageError
from rumplab.host import locks
from rumplab.lab import places
from rumplab.lab.config import Lab
from rumplab.machine.registry import NAME, free_name
from rumplab.recording import log, record
from rumplab.recording.record import Recording

PACKED = ".tar.zst"
# The file with the secret by which snapshots.py recognizes what this user has written.
KEY = ".snapshots-key"


class Recordings:
    """The recordings of this user in one lab, below the directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directories(self) -> Iterator[Path]:
        """Yields the directories of all recordings, sorted by name, including damaged ones."""
        for path in sorted(self.root.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield path

    def create(self, base: str) -> Path:
        """Makes and returns an empty directory with the name `base`, or `base` and a number."""
        with locks.held(self.root):
            path = self.root / free_name(base, {entry.name for entry in self.root.iterdir()})
            path.mkdir(0o700)
            return path

    def adopt(self, directory: Path, name: str) -> Path:
        """Moves the recording in `directory`, on the same file system, to the user's recordings."""
        with locks.held(self.root):
            path = self.root / name
            if os.path.lexists(path):
                raise RumplabError(f"a recording '{name}' exists already; choose another name with --name")
            directory.rename(path)
            return path

    def locate(self, text: str) -> Path:
        """Returns the directory of the recording `text`, a name or a path. RumplabError if there is none."""
        if text.endswith(PACKED):
            raise RumplabError(
                f"{text} is a packed recording, which only 'rumplab replay' can use; unpack it first: rumplab recording"
                f" unpack {text}"
            )
        if NAME.fullmatch(text) and (self.root / text).is_dir():
            return self.root / text
        path = Path(os.path.abspath(text))
        if (path / record.RECORD).exists():
            check_owner(path)
            return path
        names = ", ".join(directory.name for directory in self.directories())
        there = f"your recordings are: {names}" if names else "make one with: rumplab run … --record"
        raise RumplabError(f"there is no recording '{text}'; {there}")

    def read(self, directory: Path) -> Recording:
        """Returns the recording in `directory`, with the secret of its snapshots. RumplabError if it is damaged."""
        return replace(record.read(directory), key=self.root / KEY)

    def find(self, text: str) -> Recording:
        """Returns the recording `text`, a name or a path. RumplabError if there is none."""
        return self.read(self.locate(text))


def check_owner(path: Path) -> None:
    """Raises RumplabError for a directory of another user, who could exchange its files at any time."""
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise RumplabError(
            f"{path} belongs to another user (uid {owner}), who can change it during a replay; copy it first: cp -r"
            f" {path} COPY"
        )


@contextlib.contextmanager
def new(lab: Lab, text: str, base: str) -> Iterator[Path]:
    """Makes an empty directory for a recording and yields it: at the path `text`, or, if that is empty, among the
    user's recordings with the name `base`. Removes it if an error comes before the guest's first instruction."""
    directory = made(text) if text else open_recordings(lab).create(base)
    try:
        yield directory
    except BaseException:
        path = directory / record.LOG
        if not path.exists() or not log.read(path).instructions:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def open_recordings(lab: Lab) -> Recordings:
    return Recordings(places.directory(lab, "recordings", lasting=True))


def made(text: str) -> Path:
    """Makes and returns an empty directory at the path `text`. UsageError if the path exists already."""
    path = Path(os.path.abspath(text))
    if os.path.lexists(path):
        raise UsageError(f"{text} exists already; name a new directory for the recording")
    try:
        path.mkdir(0o700)
    except OSError as error:
        raise RumplabError(f"cannot make {text} for the recording: {error.strerror}; name another directory") from error
    return path
