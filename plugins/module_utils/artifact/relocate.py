"""Relocate trees whose text files contain the tree's absolute path.

A tree is built in a work directory, may be kept in a cache of built trees for hosts with other prefixes, and is
installed in the store. After the build, `detach` replaces the path in text files by a placeholder and lists these files
in the tree. On installation, `fill_in` replaces the placeholder by the final path. A path in a binary file (debugging
information) stays as it is. A tree that uses another tree, as a toolchain uses its compiler, has a placeholder for that
tree's path too.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping

from ..host.plain import read_json
from .errors import Broken

PLACEHOLDER = b"@RUMPLAB_TREE@"
# The placeholder for the directory that holds this tree and the trees that it was built with.
STORE = b"@RUMPLAB_STORE@"
LIST = ".relocate.json"
# The characters that a path may have: upstreams' scripts don't quote it.
PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")


def require_plain(path: str) -> None:
    """Raise Broken if a tree that contains its own path couldn't work at `path`."""
    if not PLAIN.fullmatch(path):
        raise Broken(
            f"this tree contains its own path, and {path} has blanks or other special characters in it; choose "
            "another rumplab_prefix"
        )


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


def _is_own(tree: str, name: str) -> bool:
    """Return whether `name` is a file in the tree, without links or .. in its path."""
    path, direct = os.path.join(tree, name), os.path.join(os.path.realpath(tree), name)
    return not os.path.isabs(name) and os.path.isfile(path) and os.path.realpath(path) == direct


def _rewrite(path: str, content: bytes) -> None:
    # In place, so that hard links still name the same file.
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, mode | stat.S_IWUSR)
    with open(path, "wb") as stream:
        stream.write(content)
    os.chmod(path, mode)


def _spellings(path: str) -> set[str]:
    return {os.path.abspath(path), os.path.realpath(path)}


def _relative(link: str, target: str, places: Mapping[str, str]) -> str | None:
    """Return a relative target for an absolute link into one of `places`; None for any other target.

    `places` maps each spelling of a tree's path to its path when both trees are in the store.
    """
    for spelling, place in places.items():
        if target == spelling or target.startswith(spelling + os.sep):
            return os.path.relpath(os.path.join(place, os.path.relpath(target, spelling)), os.path.dirname(link))
    return None


def detach(tree: str, others: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Replace the paths of `tree` and of `others` in text files below `tree` by placeholders, and list these files.

    `others` are links to trees in the store, where this tree will be installed too. Symbolic links into any of the
    trees become relative. Returns (paths, in the tree, of binary files that contain such a path and keep it; names, in
    the store, of the others whose paths the text files contain).
    """
    places = dict.fromkeys(_spellings(tree), tree)
    marks = dict.fromkeys(_spellings(tree), PLACEHOLDER)
    for other in others:
        name = os.path.basename(os.path.realpath(other))
        places.update(dict.fromkeys(_spellings(other), os.path.join(os.path.dirname(tree), name)))
        marks.update(dict.fromkeys(_spellings(other), os.path.join(STORE, os.fsencode(name))))
    longest_first = sorted(map(os.fsencode, marks), key=len, reverse=True)
    named = re.compile(b"(?:" + b"|".join(map(re.escape, longest_first)) + rb")(?![\w-])")
    listed, kept, used = [], [], set()

    def mark(match: re.Match[bytes]) -> bytes:
        return marks[os.fsdecode(match[0])]

    for path in _regular_files(tree):
        with open(path, "rb") as stream:
            content = stream.read()
        name = os.path.relpath(path, tree)
        if b"\0" in content:
            if named.search(content):
                kept.append(name)
            continue
        changed = named.sub(mark, content)
        if changed != content:
            _rewrite(path, changed)
        # A hard link to a file that was rewritten before already has the placeholder.
        if PLACEHOLDER in changed or STORE in changed:
            listed.append(name)
            used.update(re.findall(re.escape(STORE) + rb"/([\w.+-]+)", changed))
    for link in _links(tree):
        target = _relative(link, os.readlink(link), places)
        if target is not None:
            os.unlink(link)
            os.symlink(target, link)
    with open(os.path.join(tree, LIST), "w", encoding="utf-8") as written:
        json.dump(listed, written, indent=1)
        written.write("\n")
    return kept, sorted(map(os.fsdecode, used))


def fill_in(tree: str, final: str) -> None:
    """Replace the placeholders in `tree` by `final`, the path at which it will be installed, and by its directory.

    Does nothing to a tree without a list. Broken if the list is damaged.
    """
    try:
        listed = read_json(os.path.join(tree, LIST))
    except FileNotFoundError:
        return
    except ValueError as error:
        raise Broken(f"{os.path.join(tree, LIST)} is not JSON: {error}") from error
    require_plain(final)
    if not isinstance(listed, list) or not all(isinstance(name, str) and _is_own(tree, name) for name in listed):
        raise Broken(f"{os.path.join(tree, LIST)} lists paths that aren't files of that tree")
    for name in listed:
        path = os.path.join(tree, name)
        with open(path, "rb") as stream:
            content = stream.read()
        filled = content.replace(PLACEHOLDER, os.fsencode(final)).replace(STORE, os.fsencode(os.path.dirname(final)))
        _rewrite(path, filled)
