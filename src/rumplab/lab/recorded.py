"""Compares what is installed with what was recorded when it was installed.

A tree of the store has a list, ``.files.json``, of each path's kind and mode and each file's SHA-256; the descriptor of
the host's own programs has size and time of change of each. Both are written when provisioning. They notice accidents:
who may change a tree may change its list.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rumplab.host import regular
from rumplab.host.files import sha256
from rumplab.lab.config import DAMAGED, Component, Lab

LIST = ".files.json"
COMPLETE = ".complete"
# What Python makes of modules in a tree as it runs them.
COMPILED = "__pycache__"
COMPARE_WHOLE = "-e rumplab_verify=true"


@dataclass(frozen=True)
class Comparison:
    """How a component stands beside its record. `files` were compared; `problem` says why none could be; `unread` are
    those that only the lab user may read."""

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


def compare(lab: Lab) -> Iterator[Comparison]:
    """Every component that something is recorded of, by name."""
    for component in lab.components():
        if component.state == DAMAGED:
            yield Comparison(component.name, problem=component.reason or "", remedy=component.remedy)
        elif component.tree:
            yield of_tree(lab, component, component.tree)
        elif component.fingerprints:
            yield of_programs(component)


def of_programs(component: Component) -> Comparison:
    """The host's own programs: size and time of change. Describing them anew is what mends it."""
    altered, missing = [], []
    for name, mark in component.fingerprints.items():
        path = component.paths.get(name, "")
        try:
            status = os.stat(path)
        except OSError:
            missing.append(path or name)
            continue
        if f"{status.st_size} {status.st_mtime_ns}" != mark:
            altered.append(path)
    return Comparison(
        component.name,
        files=len(component.fingerprints),
        altered=tuple(altered),
        missing=tuple(missing),
        remedy=component.remedy,
    )


def out_of_use(lab: Lab, name: str, tree: str) -> str:
    """Why a tree isn't the one in use, or nothing: the link leads there."""
    link = lab.prefix / name
    if not os.path.isdir(tree):
        return f"{tree} is lost"
    if not os.path.exists(link) or not os.path.samefile(link, tree):
        return f"{link} doesn't lead to {tree}"
    return ""


def is_stamped(component: Component, tree: str) -> bool:
    """Whether a tree says that it is what its descriptor says; OSError where it says nothing."""
    path = os.path.join(tree, COMPLETE)
    with open(path, encoding="utf-8", errors="replace", opener=regular.plain) as stream:
        return stream.read() == component.stamp


def of_tree(lab: Lab, component: Component, tree: str) -> Comparison:
    """A tree in the store, whole, and the link that makes it the one in use."""
    name = component.name
    problem = out_of_use(lab, name, tree)
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
    """What a tree's list says, by path; OSError or ValueError where there is none that can be read."""
    with open(os.path.join(tree, LIST), encoding="utf-8", opener=regular.plain) as stream:
        try:
            found = json.load(stream)
        except RecursionError as error:
            raise ValueError(f"{tree}/{LIST} is nested too deeply") from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise ValueError(f"{tree}/{LIST} is no list of files")
    return {str(name): str(what) for name, what in found["files"].items()}


def describe(path: str) -> str:
    """What a list says of one path: `directory MODE`, `link TARGET`, or `file MODE SHA-256`."""
    status = os.lstat(path)
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if stat.S_ISLNK(status.st_mode):
        return f"link {os.readlink(path)}"
    if stat.S_ISDIR(status.st_mode):
        return f"directory {mode}"
    return f"file {mode} {sha256(path)}" if stat.S_ISREG(status.st_mode) else f"other {mode}"


def names(tree: str) -> Iterator[str]:
    """All paths in a tree that a list is about."""
    for here, directories, files in os.walk(tree):
        for name in sorted(directories + files):
            path = os.path.relpath(os.path.join(here, name), tree)
            if path not in (LIST, COMPLETE):
                yield path
