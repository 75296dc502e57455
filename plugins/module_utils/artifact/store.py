"""The store: the installed trees by stamp, the links to the trees in use, and the components' descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Mapping
from typing import Any

from ..host import files
from ..host.plain import DAMAGED, plain, read_json
from . import durable, inventory, relocate
from .credentials import hidden
from .durable import write_json
from .errors import Broken

COMPLETE = ".complete"
# The file in a tree that says where the tree came from, so that this isn't lost in a cache of built trees, or when the
# link is switched back to an older tree.
PROVENANCE = ".provenance.json"
# The file in a tree that lists the other artefacts' trees to which it refers, by their names in the store.
USES = ".uses.json"


class Store:
    """The directories under a prefix; docs/development/architecture.md lists them."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.trees = os.path.join(prefix, "store")
        self.cache = os.path.join(prefix, "cache")
        self.logs = os.path.join(prefix, "var", "log", "build")
        self.locks = os.path.join(prefix, "var", "lock")
        self.components = os.path.join(prefix, "etc", "components.d")
        # Autoconf and make don't work in a path with spaces or other special characters.
        plain = relocate.PLAIN.fullmatch(prefix) is not None
        self.work = os.path.join(prefix, "work") if plain else f"/var/tmp/rumplab-work-{os.geteuid()}"
        # The changed paths of trees that have changed since they were installed, by tree; `find` skips these trees.
        self.damaged: dict[str, list[str]] = {}

    def ready(self) -> None:
        """Make the directories that are missing, and remove the temporary files of killed runs."""
        for directory in (self.trees, self.cache, self.logs, self.locks, self.components):
            os.makedirs(directory, exist_ok=True)
        os.makedirs(self.work, mode=0o755, exist_ok=True)
        status = os.lstat(self.work)
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            raise Broken(f"{self.work} belongs to another user; remove it, or choose a rumplab_prefix without blanks")
        for directory in (self.cache, self.components):
            durable.sweep(directory)

    def clean(self, name: str) -> None:
        """Remove an artefact's work directory, and the work directory outside the prefix if it is empty then."""
        try:
            remove_tree(os.path.join(self.work, name))
            if not self.work.startswith(self.prefix + os.sep):
                os.rmdir(self.work)
        except OSError:
            # The next run removes it. An error here would hide the one that ended this run.
            pass

    def tree(self, name: str, version: str, stamp: str) -> str:
        """Return the path of the tree with this stamp."""
        return os.path.join(self.trees, f"{name}-{version}-{stamp[:12]}")

    def find(self, name: str, stamp: str) -> str | None:
        """Return the complete tree with this name and stamp, of any version, or None."""
        suffix = f"-{stamp[:12]}"
        for entry in sorted(os.listdir(self.trees)) if os.path.isdir(self.trees) else []:
            if entry.startswith(f"{name}-") and entry.endswith(suffix):
                tree = os.path.join(self.trees, entry)
                if tree not in self.damaged and self.stamp_of(tree) == stamp:
                    return tree
        return None

    def examine(self, tree: str, paths: Mapping[str, str]) -> bool:
        """Return whether a tree still has the files in its list and `paths`; if not, `find` skips it from now on."""
        lost = [path for path in paths.values() if not os.path.exists(os.path.join(tree, path))]
        differing = sorted({*inventory.differences(tree), *lost})
        if differing:
            self.damaged[tree] = differing
        return not differing

    def damage(self) -> list[str]:
        """Return a sentence for each damaged tree, with the paths that were lost or changed."""
        return [
            f"{tree} has changed since it was installed ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for tree, names in self.damaged.items()
        ]

    def stamp_of(self, tree: str) -> str | None:
        """Return the stamp in a tree's .complete, or None if the tree is incomplete or lacks its provenance."""
        try:
            self.provenance_of(tree)
            with open(os.path.join(tree, COMPLETE), encoding="utf-8", opener=plain) as stream:
                return stream.read()
        except (OSError, ValueError):
            return None

    def provenance_of(self, tree: str) -> dict[str, Any]:
        """Return a tree's version, source, origin, reason and time of installation."""
        found = read_json(os.path.join(tree, PROVENANCE))
        if not isinstance(found, dict):
            raise ValueError(f"{tree}/{PROVENANCE} is not an object")
        return found

    def current(self, name: str) -> str | None:
        """Return the tree that is in use, or None."""
        link = os.path.join(self.prefix, name)
        return os.path.join(self.prefix, os.readlink(link)) if os.path.islink(link) else None

    def adopt(self, made: str, tree: str, stamp: str) -> None:
        """Move the finished directory `made` into the store as `tree`.

        Everything is synced before `.complete` is written, and that before the final rename. So a tree with its final
        name is complete, even after a power cut.
        """
        partial = os.path.join(self.trees, "." + os.path.basename(tree) + ".part")
        remove_tree(partial)
        try:
            os.rename(made, partial)
        except OSError:
            # The work directory may be outside the prefix, on another file system.
            shutil.copytree(made, partial, symlinks=True)
        relocate.fill_in(partial, tree)
        inventory.write(partial)
        durable.sync_tree(partial)
        with open(os.path.join(partial, COMPLETE), "w", encoding="utf-8") as stream:
            stream.write(stamp)
            stream.flush()
            os.fsync(stream.fileno())
        durable.sync(partial)
        if os.path.lexists(tree):
            # Rename the damaged tree instead of removing it, so that the link dangles only for a moment.
            former = os.path.join(self.trees, "." + os.path.basename(tree) + ".former.part")
            remove_tree(former)
            os.rename(tree, former)
        os.rename(partial, tree)
        durable.sync(self.trees)
        self.damaged.pop(tree, None)

    def switch(self, name: str, tree: str) -> bool:
        """Point the prefix's link at the tree, atomically; True if it pointed elsewhere."""
        link = os.path.join(self.prefix, name)
        target = os.path.relpath(tree, self.prefix)
        if os.path.islink(link) and os.readlink(link) == target:
            return False
        # prune sorts the trees by the time of their switch. The clock may have been set back since the last one.
        now = max([time.time_ns(), *(moment + 10**9 for moment in self._switches(name))])
        os.utime(os.path.join(tree, COMPLETE), ns=(now, now))
        files.point(link, target, files.open_unchecked)
        return True

    def _switches(self, name: str) -> list[int]:
        """Return the times of the switches to the trees of this name, in ns since the epoch."""
        pattern = re.compile(re.escape(name) + r"-.+-[0-9a-f]{12}")
        whole = [tree for tree in os.listdir(self.trees) if pattern.fullmatch(tree)]
        marks = [os.path.join(self.trees, tree, COMPLETE) for tree in whole]
        return [os.stat(mark).st_mtime_ns for mark in marks if os.path.exists(mark)]

    def uses_of(self, tree: str) -> list[str]:
        """Return the names, in the store, of the trees that a tree refers to."""
        path = os.path.join(tree, USES)
        try:
            return [str(name) for name in read_json(path)["trees"]]
        except FileNotFoundError:
            return []
        except DAMAGED as error:
            # An empty list would let prune remove the trees to which this one refers.
            raise Broken(f"{path} can't be read ({error}); remove {tree}, and the next run builds it again") from error

    def used(self) -> set[str]:
        """Return the names of the trees to which other trees refer, such as a toolchain's compiler."""
        return {name for entry in os.listdir(self.trees) for name in self.uses_of(os.path.join(self.trees, entry))}

    def prune(self, name: str, keep: int) -> list[str]:
        """Remove all trees of this name except the `keep` ones that were in use last; return the removed ones.

        Partial trees are removed too. A tree to which another tree refers stays.
        """
        pattern = re.compile(re.escape(name) + r"-.+-[0-9a-f]{12}")
        current = os.path.realpath(self.current(name) or "")
        whole, removed = [], []
        for entry in os.listdir(self.trees):
            tree = os.path.join(self.trees, entry)
            half = entry.startswith(".") and pattern.fullmatch(entry[1:].removesuffix(".part").removesuffix(".former"))
            if half or (pattern.fullmatch(entry) and self.stamp_of(tree) is None):
                removed.append(tree)
            elif pattern.fullmatch(entry) and os.path.realpath(tree) != current:
                whole.append((os.stat(os.path.join(tree, COMPLETE)).st_mtime_ns, tree))
        used = self.used()
        older = [tree for _, tree in sorted(whole, reverse=True)[max(keep - 1, 0) :]]
        removed += [tree for tree in older if os.path.basename(tree) not in used]
        for tree in removed:
            remove_tree(tree)
        return removed

    def descriptor(self, name: str) -> dict[str, Any] | None:
        """Return a component's descriptor, or None if it is missing or can't be read."""
        try:
            found = read_json(os.path.join(self.components, f"{name}.json"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def describe(self, name: str, descriptor: Mapping[str, Any]) -> bool:
        """Write a component's descriptor atomically; False if the existing one is the same."""
        descriptor = hidden(descriptor)
        if self.descriptor(name) == descriptor:
            return False
        write_json(os.path.join(self.components, f"{name}.json"), descriptor)
        return True


def remove_tree(path: str) -> None:
    """Remove a directory with its content, even read-only directories in it; do nothing if it doesn't exist."""
    for here, directories, _ in os.walk(path):
        for directory in [here, *(os.path.join(here, name) for name in directories)]:
            if not os.path.islink(directory):
                # PermissionError: another user's directory. If it is empty, rmtree can still remove it.
                with contextlib.suppress(PermissionError):
                    os.chmod(directory, 0o700)
    if os.path.lexists(path):
        shutil.rmtree(path)
