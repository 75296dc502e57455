"""The manifest: what was created outside the prefix, entered before or together with its creation."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from .files import make_directory, missing_parents, read_json, write_json
from .packages import automatic, installed

Entry = dict[str, Any]
# What is installed while a package manager is at work stands in a list of this name, one for every run.
SNAPSHOT = "packages-before-"
# Seconds after which a run that hasn't settled its list isn't going to: no installation takes as long.
ABANDONED = 7200.0


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
            make_directory(directory)
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


def remember_packages(manifest: str, manager: str, wanted: Sequence[str], user: str) -> str:
    """Write down what is there now, before `wanted` gets installed; return the name of the list."""
    descriptor, path = tempfile.mkstemp(dir=os.path.dirname(manifest), prefix=SNAPSHOT, suffix=".json")
    os.close(descriptor)
    state = {"manager": manager, "wanted": list(wanted), "before": host_state(manager), "time": time.time()}
    write_json(path, state, user)
    return os.path.basename(path)


def settle_packages(manifest: str, name: str, user: str) -> list[Entry]:
    """Enter what came since the list `name` was written into the manifest, and forget the list."""
    path = os.path.join(os.path.dirname(manifest), os.path.basename(name))
    snapshot = read_json(path, None)
    if snapshot is None:
        return []
    before = snapshot["before"]
    new: list[Entry] = []
    for kind, names in host_state(snapshot["manager"]).items():
        more = {"manager": snapshot["manager"]} if kind == "package" else {}
        new += [{"kind": kind, **more, "name": name} for name in sorted(set(names) - set(before[kind]))]
    return _settled(manifest, path, new, user)


def settle_abandoned(manifest: str, user: str, older_than: float = ABANDONED) -> list[Entry]:
    """Do the same for the lists that runs left which were killed; `older_than` is in seconds.

    Somebody else may have installed things since. So only what the run asked for counts, and what the package manager
    put in by itself; accounts don't. Uninstall keeps what another package needs in any case.
    """
    added: list[Entry] = []
    directory = os.path.dirname(manifest)
    for name in sorted(os.listdir(directory) if os.path.isdir(directory) else []):
        path = os.path.join(directory, name)
        snapshot = read_json(path, None) if name.startswith(SNAPSHOT) else None
        if snapshot is None or time.time() - snapshot["time"] < older_than:
            continue
        manager = snapshot["manager"]
        came = set(installed(manager)) - set(snapshot["before"]["package"])
        ours = came & ({*snapshot["wanted"]} | automatic(manager))
        new = [{"kind": "package", "manager": manager, "name": package} for package in sorted(ours)]
        added += _settled(manifest, path, new, user)
    return added


def _settled(manifest: str, path: str, new: Sequence[Entry], user: str) -> list[Entry]:
    added = record(manifest, new, user)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return added
