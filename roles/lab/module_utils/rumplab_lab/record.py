"""The manifest: what was created outside the prefix, entered before or together with its creation."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from typing import Any

from .files import missing_parents, read_json, write_json
from .packages import installed

Entry = dict[str, Any]


def merged(entries: Sequence[Entry], new: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return (all entries, those that were added); an entry stands once, in the order of its creation."""
    added: list[Entry] = []
    for entry in new:
        if entry not in entries and entry not in added:
            added.append(entry)
    return [*entries, *added], added


def make_room(path: str, check: bool = False) -> list[Entry]:
    """Make the directories that the manifest at PREFIX/var/manifest.json needs; return the entries for them.

    The prefix is one of its own kind, since all below it is ours; directories above it go only when they are empty.
    """
    prefix = os.path.dirname(os.path.dirname(path))
    entries = []
    for directory in missing_parents(path):
        if not check:
            os.mkdir(directory, 0o755)
        if directory == prefix:
            entries.append({"kind": "prefix", "name": directory})
        elif not directory.startswith(prefix + os.sep):
            entries.append({"kind": "path", "name": directory})
    return entries


def record(path: str, new: Sequence[Entry], user: str, check: bool = False) -> list[Entry]:
    """Add entries to the manifest at `path` and return those that weren't in it; two runs may do so at once."""
    empty = {"schema": 1, "entries": []}
    new = [*make_room(path, check), *new]
    if check:
        return merged(read_json(path, empty)["entries"], new)[1]
    # The directory is the lock: root and the lab user can both open it, whoever of them wrote the file last.
    lock = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries, added = merged(read_json(path, empty)["entries"], new)
        if added:
            write_json(path, {"schema": 1, "entries": entries}, user)
    finally:
        os.close(lock)
    return added


def snapshot_path(manifest: str) -> str:
    """Return where the list of packages stands while a package manager is at work."""
    return os.path.join(os.path.dirname(manifest), "packages-before.json")


def account_names(path: str) -> list[str]:
    """Return the names in a file of the form of passwd(5) or group(5); none where there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return [line.split(":", 1)[0] for line in stream if ":" in line and not line.startswith("#")]
    except FileNotFoundError:
        return []


def host_state(manager: str) -> dict[str, list[str]]:
    """Return what installing a package may add to: the packages, and the accounts that their scripts make."""
    return {
        "package": installed(manager),
        "user": account_names("/etc/passwd"),
        "group": account_names("/etc/group"),
    }


def remember_packages(manifest: str, manager: str, user: str) -> None:
    """Write down what is there now. An older list that nobody settled, of a run that was killed, stays."""
    path = snapshot_path(manifest)
    if not os.path.exists(path):
        write_json(path, {"manager": manager, "before": host_state(manager)}, user)


def settle_packages(manifest: str, user: str) -> list[Entry]:
    """Enter what came since `remember_packages` into the manifest, and forget the list."""
    path = snapshot_path(manifest)
    snapshot = read_json(path, None)
    if snapshot is None:
        return []
    manager, before = snapshot["manager"], snapshot["before"]
    new: list[Entry] = []
    for kind, names in host_state(manager).items():
        more = {"manager": manager} if kind == "package" else {}
        new += [{"kind": kind, **more, "name": name} for name in sorted(set(names) - set(before[kind]))]
    added = record(manifest, new, user)
    os.unlink(path)
    return added
