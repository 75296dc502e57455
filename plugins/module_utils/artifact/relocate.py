"""Trees that know where they stand: text files with their own absolute path in them, which is filled in when installed.

A tree is built in a work directory, kept in a cache of built trees for hosts with other prefixes, and used in the
store. Between the first and the last, a placeholder stands for its path, and a list in the tree names the files that
have it. Only text files are followed; a path in a program or an object file (debugging information) stays as it was.
A tree that goes on using another one, as a toolchain does its compiler, names that one likewise.
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
# Of the directory in which this tree and those that it was built with stand side by side.
STORE = b"@RUMPLAB_STORE@"
LIST = ".relocate.json"
# Scripts don't quote the path that was built into them.
PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")


def require_plain(path: str) -> None:
    """Raise Broken where a tree with its path built in could not work at `path`."""
    if not PLAIN.fullmatch(path):
        raise Broken(
            f"its own path is built into this tree, and {path} has blanks or stranger things in it: choose "
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
    """Whether `name` is a file of the tree, by no way round."""
    path, direct = os.path.join(tree, name), os.path.join(os.path.realpath(tree), name)
    return not os.path.isabs(name) and os.path.isfile(path) and os.path.realpath(path) == direct


def _rewrite(path: str, content: bytes) -> None:
    # In place: another name of the same file must not be parted from it.
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, mode | stat.S_IWUSR)
    with open(path, "wb") as stream:
        stream.write(content)
    os.chmod(path, mode)


def _spellings(path: str) -> set[str]:
    return {os.path.abspath(path), os.path.realpath(path)}


def _relative(link: str, target: str, places: Mapping[str, str]) -> str | None:
    """Return the target of an absolute link into one of `places`, relative to the link; None for any other target.

    `places` has, by each spelling of a path, where that stands when the tree is in the store.
    """
    for spelling, place in places.items():
        if target == spelling or target.startswith(spelling + os.sep):
            return os.path.relpath(os.path.join(place, os.path.relpath(target, spelling)), os.path.dirname(link))
    return None


def detach(tree: str, others: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Put a placeholder where text files below `tree` name it or one of `others`, and write the list of those files.

    `others` are links to trees of the store, beside which this one is going to stand. Symbolic links to places in any
    of them become relative. Returns the paths, in the tree, of files that name one and aren't text: those keep the
    path; and the names, in the store, of the others that are named.
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
        # The second name of a file finds the placeholder there already.
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


def settle(tree: str, final: str) -> None:
    """Fill in `final`, the path at which `tree` is going to stand, where `detach` left the placeholder.

    A tree without a list has nothing to be filled in.
    """
    try:
        listed = read_json(os.path.join(tree, LIST))
    except FileNotFoundError:
        return
    except ValueError as error:
        raise Broken(f"{os.path.join(tree, LIST)} is not JSON: {error}") from error
    require_plain(final)
    if not isinstance(listed, list) or not all(isinstance(name, str) and _is_own(tree, name) for name in listed):
        raise Broken(f"{os.path.join(tree, LIST)} lists what are no files of that tree")
    for name in listed:
        path = os.path.join(tree, name)
        with open(path, "rb") as stream:
            content = stream.read()
        settled = content.replace(PLACEHOLDER, os.fsencode(final)).replace(STORE, os.fsencode(os.path.dirname(final)))
        _rewrite(path, settled)
