"""Compares the installed files with the records that provisioning wrote.

A tree of the store has the record ``.files.json``: the type and mode of each path, and the SHA-256 of each file. The
descriptor of the host's own programs has each one's size and modification time. The records detect accidents, not
attacks: whoever can change a tree can change its record.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab.host import regular
from rumplab.host.answers import MALFORMED, typed
from rumplab.host.files import sha256
from rumplab.lab.config import DAMAGED, Component, Lab

LIST = ".files.json"
COMPLETE = ".complete"
# Python writes such directories into a tree when it runs the tree's modules. They aren't reported as added.
COMPILED = "__pycache__"
MANIFEST = "manifest.json"
# The name under which the lab's own records are compared. No component has it.
LAB = "lab"
COMPARE_WHOLE = "-e rumplab_verify=true"


@dataclass(frozen=True)
class Comparison:
    """The differences between a component and its record.

    `files` is the number of files that were compared. If the comparison was impossible, `problem` says why. `unread`
    are the files that only the lab user can read.
    """

    component: str
    files: int = 0
    altered: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""

    @property
    def differs(self) -> bool:
        return bool(self.problem or self.altered or self.missing or self.added)


def compare(lab: Lab, names: Collection[str] = ()) -> Iterator[Comparison]:
    """Yields the comparison of each component that has a record, by name, and of the lab itself as LAB. `names` limits
    it to these."""
    for component in lab.components():
        if names and component.name not in names:
            continue
        if component.state == DAMAGED:
            yield Comparison(component.name, problem=component.reason or "", remedy=component.remedy)
        elif component.tree:
            yield of_tree(lab, component, component.tree)
        elif component.fingerprints:
            yield of_programs(component)
    if not names or LAB in names:
        yield of_lab(lab)


def of_lab(lab: Lab) -> Comparison:
    """Compares the manifest with its copy, and what it lists outside the prefix with what is there."""
    places = [lab.prefix / directory / MANIFEST for directory in ("var", "etc")]
    found: list[dict[str, set[str]]] = []
    altered, missing, unread = [], [], []
    for place in places:
        try:
            found.append(listed_outside(place))
        except PermissionError:
            unread.append(str(place))
        except FileNotFoundError:
            missing.append(str(place))
        except (OSError, *MALFORMED):
            altered.append(str(place))
    if len(found) == len(places) and found[0] != found[1]:
        altered.append(str(places[1]))
    outside = {path: hashes for listed in found for path, hashes in listed.items()}
    for path, hashes in sorted(outside.items()):
        try:
            os.lstat(path)
            if hashes and sha256(path) not in hashes:
                altered.append(path)
        except PermissionError:
            unread.append(path)
        except OSError:
            missing.append(path)
    files = len(found) + len(outside)
    return Comparison(LAB, files, tuple(altered), tuple(missing), unread=tuple(unread), remedy=lab.provision)


def listed_outside(place: Path) -> dict[str, set[str]]:
    """Returns what the manifest `place` lists outside the prefix: for each path the SHA-256 hashes that its content may
    have; none for directories and links. OSError or one of MALFORMED if the manifest can't be read."""
    with open(place, encoding="utf-8", opener=regular.plain) as stream:
        entries = typed(typed(json.load(stream), dict)["entries"], list)
    found: dict[str, set[str]] = {}
    for entry in entries:
        if entry["kind"] in ("path", "file"):
            hashes = found.setdefault(typed(entry["name"], str), set())
            hashes.update([typed(entry["sha256"], str)] if entry["kind"] == "file" else [])
    return found


def of_programs(component: Component) -> Comparison:
    """Compares the size and modification time of the host's own programs. The remedy is to provision the component
    again, which records them anew."""
    altered, missing = [], []
    for name, fingerprint in component.fingerprints.items():
        path = component.paths.get(name, "")
        try:
            status = os.stat(path)
        except OSError:
            missing.append(path or name)
            continue
        if f"{status.st_size} {status.st_mtime_ns}" != fingerprint:
            altered.append(path)
    return Comparison(
        component.name,
        files=len(component.fingerprints),
        altered=tuple(altered),
        missing=tuple(missing),
        remedy=component.remedy,
    )


def link_problem(lab: Lab, name: str, tree: str) -> str:
    """Returns why the link `name` in the prefix doesn't lead to `tree`; "" if it does."""
    link = lab.prefix / name
    if not os.path.isdir(tree):
        return f"{tree} is lost"
    if not os.path.exists(link) or not os.path.samefile(link, tree):
        return f"{link} doesn't lead to {tree}"
    return ""


def is_stamped(component: Component, tree: str) -> bool:
    """Returns whether the stamp in `tree` is the descriptor's; OSError if the tree has none."""
    path = os.path.join(tree, COMPLETE)
    with open(path, encoding="utf-8", errors="replace", opener=regular.plain) as stream:
        return stream.read() == component.stamp


def of_tree(lab: Lab, component: Component, tree: str) -> Comparison:
    """Compares all files of a tree in the store, and checks the link that leads to it."""
    name = component.name
    problem = link_problem(lab, name, tree)
    if problem:
        return Comparison(name, problem=problem, remedy=component.remedy)
    remedy = f"{component.remedy} {COMPARE_WHOLE}"
    try:
        listed = read(tree)
    except FileNotFoundError:
        return Comparison(name, missing=(LIST,), remedy=remedy)
    except PermissionError:
        return Comparison(name, problem=f"{tree}/{LIST} can't be read; run this as {lab.user}")
    except (OSError, ValueError, RecursionError):
        return Comparison(name, altered=(LIST,), remedy=remedy)
    files, altered, missing, unread = 0, [], [], []
    for path, what in sorted(listed.items()):
        files += not what.startswith("directory ")
        try:
            if describe(os.path.join(tree, path)) != what:
                altered.append(path)
        except PermissionError:
            unread.append(path)
        except OSError:
            missing.append(path)
    try:
        if not is_stamped(component, tree):
            altered.append(COMPLETE)
    except OSError:
        missing.append(COMPLETE)
    added = [path for path in names(tree) if path not in listed and COMPILED not in path.split(os.sep)]
    return Comparison(name, files, tuple(altered), tuple(missing), tuple(added), tuple(unread), remedy=remedy)


def read(tree: str) -> dict[str, Any]:
    """Returns a tree's record: the description of each path, by path. OSError or ValueError if it can't be read."""
    with open(os.path.join(tree, LIST), encoding="utf-8", opener=regular.plain) as stream:
        try:
            found = json.load(stream)
        except RecursionError as error:
            raise ValueError(f"{tree}/{LIST} is nested too deeply") from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise ValueError(f"{tree}/{LIST} has no object 'files'")
    return {str(name): str(what) for name, what in found["files"].items()}


def describe(path: str) -> str:
    """Returns the description of a path in a record: `directory MODE`, `link TARGET`, `file MODE SHA-256`, or
    `other MODE`. MODE is octal."""
    status = os.lstat(path)
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if stat.S_ISLNK(status.st_mode):
        return f"link {os.readlink(path)}"
    if stat.S_ISDIR(status.st_mode):
        return f"directory {mode}"
    return f"file {mode} {sha256(path)}" if stat.S_ISREG(status.st_mode) else f"other {mode}"


def names(tree: str) -> Iterator[str]:
    """Yields all paths in a tree, relative to it, except those of the record and the stamp."""
    for here, directories, files in os.walk(tree):
        for name in sorted(directories + files):
            path = os.path.relpath(os.path.join(here, name), tree)
            if path not in (LIST, COMPLETE):
                yield path
