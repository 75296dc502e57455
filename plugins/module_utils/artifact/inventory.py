"""List the files of a tree when it is installed, so that a later run can find changes.

The list has each path with its kind and mode, and the SHA-256 of each file's content. It finds accidental changes only:
a user who can change the tree can change the list as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator

from ..host.plain import plain, read_json

NAME = ".files.json"
# These files are written after the list. COMPILED: Python writes it when it runs modules in the tree.
UNLISTED = (NAME, ".complete")
COMPILED = "__pycache__"
PIECE = 1 << 20


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", opener=plain) as stream:
        for piece in iter(lambda: stream.read(PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


def describe(path: str) -> str:
    """Return the list's value for a path: `directory MODE`, `link TARGET`, `file MODE SHA-256`, or `other MODE`."""
    status = os.lstat(path)
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if stat.S_ISLNK(status.st_mode):
        return f"link {os.readlink(path)}"
    if stat.S_ISDIR(status.st_mode):
        return f"directory {mode}"
    return f"file {mode} {_digest(path)}" if stat.S_ISREG(status.st_mode) else f"other {mode}"


def names(tree: str) -> Iterator[str]:
    """Yield the paths in the tree that the list has, sorted."""
    for here, directories, files in os.walk(tree):
        directories.sort()
        for name in sorted(directories + files):
            path = os.path.relpath(os.path.join(here, name), tree)
            if path not in UNLISTED:
                yield path


def write(tree: str) -> None:
    """Write the list of the tree's files into the tree."""
    listed = {name: describe(os.path.join(tree, name)) for name in names(tree)}
    with open(os.path.join(tree, NAME), "w", encoding="utf-8") as stream:
        json.dump({"schema": 1, "files": listed}, stream, indent=0)
        stream.write("\n")


def read(tree: str) -> dict[str, str]:
    """Return the list, {path: value of `describe`}; OSError or ValueError if it can't be read."""
    found = read_json(os.path.join(tree, NAME))
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise ValueError(f"{tree}/{NAME} is no list of files")
    return {str(name): str(what) for name, what in found["files"].items()}


def differences(tree: str) -> list[str]:
    """Return the paths that are missing, changed or new since the tree was installed; [NAME] for a damaged list."""
    try:
        listed = read(tree)
    except (OSError, ValueError):
        return [NAME]
    found = [name for name, what in listed.items() if not _is_as_listed(os.path.join(tree, name), what)]
    return sorted(found + [name for name in names(tree) if name not in listed and COMPILED not in name.split(os.sep)])


def _is_as_listed(path: str, what: str) -> bool:
    try:
        return describe(path) == what
    except (OSError, ValueError):
        # ValueError: the damaged list has a name with a NUL character.
        return False
