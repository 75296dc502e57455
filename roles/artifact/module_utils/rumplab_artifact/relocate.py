"""Trees that know where they stand: text files with their own absolute path in them, which is filled in when installed.

A tree is built in a work directory, kept in a cache of built trees for hosts with other prefixes, and used in the
store. Between the first and the last, a placeholder stands for its path, and a list in the tree names the files that
have it. Only text files are followed; a path in a program or an object file (debugging information) stays as it was.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator

from .errors import Broken

PLACEHOLDER = b"@RUMPLAB_TREE@"
LIST = ".relocate.json"
# Scripts don't quote the path that was built into them.
PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")


def require_plain(path: str) -> None:
    """Raise Broken where a tree with its path built in could not work at `path`."""
    if not PLAIN.fullmatch(path):
        raise Broken(f"its own path is built into this tree, and {path} has blanks or stranger things in it: choose "
                     "another rumplab_prefix")


def _regular_files(tree: str) -> Iterator[str]:
    for here, directories, names in os.walk(tree):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(here, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def _links(tree: str) -> Iterator[str]:
    for here, directories, names in os.walk(tree):
        for name in sorted(directories + names):
            if os.path.islink(os.path.join(here, name)):
                yield os.path.join(here, name)


def _rewrite(path: str, content: bytes) -> None:
    # In place: another name of the same file must not be parted from it.
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, mode | stat.S_IWUSR)
    with open(path, "wb") as stream:
        stream.write(content)
    os.chmod(path, mode)


def detach(tree: str) -> list[str]:
    """Put the placeholder where text files below `tree` name it, and write the list of them.

    Symbolic links to places in the tree become relative. Returns the paths, in the tree, of files that name it and
    aren't text: those keep the path.
    """
    spellings = {os.path.abspath(tree), os.path.realpath(tree)}
    longest_first = sorted(map(os.fsencode, spellings), key=len, reverse=True)
    itself = re.compile(b"(?:" + b"|".join(map(re.escape, longest_first)) + rb")(?![\w-])")
    listed, kept = [], []
    for path in _regular_files(tree):
        with open(path, "rb") as stream:
            content = stream.read()
        name = os.path.relpath(path, tree)
        if b"\0" in content:
            if itself.search(content):
                kept.append(name)
            continue
        changed = itself.sub(PLACEHOLDER, content)
        if changed != content:
            _rewrite(path, changed)
        # The second name of a file finds the placeholder there already.
        if PLACEHOLDER in changed:
            listed.append(name)
    for link in _links(tree):
        target = os.readlink(link)
        for spelling in spellings:
            if target == spelling or target.startswith(spelling + os.sep):
                inside = os.path.join(tree, os.path.relpath(target, spelling))
                os.unlink(link)
                os.symlink(os.path.relpath(inside, os.path.dirname(link)), link)
                break
    with open(os.path.join(tree, LIST), "w", encoding="utf-8") as stream:
        json.dump(listed, stream, indent=1)
        stream.write("\n")
    return kept


def settle(tree: str, final: str) -> None:
    """Fill in `final`, the path at which `tree` is going to stand, where `detach` left the placeholder.

    A tree without a list has nothing to be filled in.
    """
    try:
        with open(os.path.join(tree, LIST), encoding="utf-8") as stream:
            listed = json.load(stream)
    except FileNotFoundError:
        return
    require_plain(final)
    for name in listed:
        path = os.path.join(tree, name)
        with open(path, "rb") as stream:
            content = stream.read()
        _rewrite(path, content.replace(PLACEHOLDER, os.fsencode(final)))
