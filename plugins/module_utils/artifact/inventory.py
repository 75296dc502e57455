"""What a tree held when it was installed, so that a later look can tell whether it still does.

Each path is listed with its kind and mode, and a file with the SHA-256 of its content. The list notices accidents: who
may change the tree may change the list as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator

from ..host.plain import plain, read_json

NAME = ".files.json"
# Written after the list; and what Python compiles of modules in the tree as it runs.
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
    """Return what a list says of one path: `directory MODE`, `link TARGET`, or `file MODE SHA-256`."""
    status = os.lstat(path)
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if stat.S_ISLNK(status.st_mode):
        return f"link {os.readlink(path)}"
    if stat.S_ISDIR(status.st_mode):
        return f"directory {mode}"
    return f"file {mode} {_digest(path)}" if stat.S_ISREG(status.st_mode) else f"other {mode}"


def names(tree: str) -> Iterator[str]:
    """Yield all paths in the tree that a list is about, sorted."""
    for here, directories, files in os.walk(tree):
        directories.sort()
        for name in sorted(directories + files):
            path = os.path.relpath(os.path.join(here, name), tree)
            if path not in UNLISTED:
                yield path


def write(tree: str) -> None:
    """List all that is in the tree."""
    listed = {name: describe(os.path.join(tree, name)) for name in names(tree)}
    with open(os.path.join(tree, NAME), "w", encoding="utf-8") as stream:
        json.dump({"schema": 1, "files": listed}, stream, indent=0)
        stream.write("\n")


def read(tree: str) -> dict[str, str]:
    """Return what is listed; OSError or ValueError where there is no list that can be read."""
    found = read_json(os.path.join(tree, NAME))
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise ValueError(f"{tree}/{NAME} is no list of files")
    return {str(name): str(what) for name, what in found["files"].items()}


def differences(tree: str) -> list[str]:
    """Return the paths that are lost, altered or new since the tree was installed; the list itself may be one."""
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
        # ValueError is of a name that none can have.
        return False
