"""The manifest: the record of what was created outside the prefix. An entry is written before its change is made.

Root undoes what the manifest lists, and the lab user, who owns the directory, could replace the file. So the manifest
counts only if root owns it (see files.trusted). A copy in etc/ serves if it is lost, damaged, or another user's.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import locks
from .files import (
    Unfit,
    make_directory,
    missing_parents,
    owner_for,
    owner_name,
    parent_of,
    read_json,
    remove,
    sweep,
    trusted,
    write_json,
)
from .packages import installed, installed_for
from .plain import DAMAGED

Entry = dict[str, Any]
# Before a run installs packages, it lists what the host has, in a file whose name begins so.
SNAPSHOT = "packages-before-"
# Seconds after which such a list counts as that of a killed run: no installation takes as long.
ABANDONED = 7200.0
# Packages that Ansible's module for a package manager installs for itself, marked as installed by the user.
BINDINGS = {"apt": ["python3-apt"], "dnf": ["python3-dnf"], "dnf5": ["python3-libdnf5"]}
LOCK = "manifest.lock"
# Seconds. A run holds the lock only while it writes two small files.
LOCK_WAIT = 60.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def merged(entries: Sequence[Entry], new: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return (all entries, the added ones). Each entry is listed once; the order is that of creation."""
    added: list[Entry] = []
    for entry in new:
        if entry not in entries and entry not in added:
            added.append(entry)
    return [*entries, *added], added


def prefix_of(path: str) -> str:
    """Return the prefix whose manifest is at `path`."""
    return os.path.dirname(os.path.dirname(path))


def copy_of(path: str) -> str:
    """Return the path of the manifest's copy."""
    return os.path.join(prefix_of(path), "etc", os.path.basename(path))


def make_directories(path: str, check: bool = False) -> list[Entry]:
    """Make the directories that the manifest at PREFIX/var/manifest.json needs; return the entries for them.

    The prefix has its own kind, since uninstalling removes it with all its content. Of the directories above it,
    uninstalling removes those that are empty.
    """
    prefix = prefix_of(path)
    entries = []
    for directory in [*missing_parents(path), *missing_parents(copy_of(path))]:
        if not check and not os.path.isdir(directory):
            make_directory(directory)
        if directory == prefix:
            entries.append({"kind": "prefix", "name": directory})
        elif not directory.startswith(prefix + os.sep):
            entries.append({"kind": "path", "name": directory})
    return merged([], entries)[1]


def _entries_at(place: str) -> list[Entry] | None:
    """Return the entries of the manifest or its copy, None if there is no such file; Unfit if it can't be used."""
    found = read_json(place, None, trusted())
    if found is None:
        return None
    whole = isinstance(found, dict) and isinstance(found.get("entries"), list)
    if not whole or not all(isinstance(one, dict) and {"kind", "name"} <= one.keys() for one in found["entries"]):
        raise Unfit(f"{place} is no manifest; remove it, and run ./provision again")
    entries: list[Entry] = found["entries"]
    return entries


def entries_of(path: str) -> list[Entry]:
    """Return the entries of the manifest at `path` and of its copy. Unfit if there is such a file, but none is usable.

    Entries are never removed, so an entry that only one of the two has counts too.
    """
    counted, unfit = [], []
    for place in (path, copy_of(path)):
        try:
            counted.append(_entries_at(place))
        except Unfit as error:
            unfit.append(str(error))
    known = [entries for entries in counted if entries is not None]
    if unfit and not known:
        raise Unfit("; ".join(unfit))
    return merged([], [entry for entries in known for entry in entries])[1]


def is_kept_twice(path: str, entries: Sequence[Entry]) -> bool:
    """Return whether both the manifest and its copy have exactly these entries."""
    for place in (path, copy_of(path)):
        try:
            if _entries_at(place) != list(entries):
                return False
        except Unfit:
            return False
    return True


def _holder(handle: int) -> str:
    """Return the lock's holder in words, from the lock's file."""
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
        return f"process {owner['pid']} of {owner_name(owner['uid'])}"
    except (OSError, *DAMAGED):
        return "another process"


@contextlib.contextmanager
def locked(path: str, user: str) -> Iterator[None]:
    """Hold the manifest's lock, which only root and the lab user can open."""
    place = os.path.join(os.path.dirname(path), LOCK)
    with parent_of(place) as (directory, name):
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            handle = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            os.fchmod(handle, 0o600)
            owner = owner_for(user)
            if owner:
                os.fchown(handle, *owner)
        except FileExistsError:
            handle = os.open(name, flags, dir_fd=directory)
    try:
        if not locks.wait_for(handle, LOCK_WAIT):
            raise ValueError(locks.refusal(_holder(handle), place, LOCK_WAIT))
        locks.enter(handle, {"pid": os.getpid(), "uid": os.getuid()})
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def record(path: str, new: Sequence[Entry], user: str, check: bool = False) -> list[Entry]:
    """Add entries to the manifest at `path` and return those that weren't in it. Two runs may call this at once.

    The writer owns the file, so that the lab user can't change what root wrote.
    """
    new = [*make_directories(path, check), *new]
    if check:
        return merged(entries_of(path), new)[1]
    with locked(path, user):
        entries, added = merged(entries_of(path), new)
        if not is_kept_twice(path, entries):
            for place in (path, copy_of(path)):
                write_json(place, {"schema": 1, "entries": entries})
        sweep_directories(path)
    return added


def sweep_directories(path: str) -> None:
    """Remove the temporary files of killed runs beside the manifest and its copy."""
    for place in (path, copy_of(path)):
        with contextlib.suppress(OSError), parent_of(place) as (directory, _):
            sweep(directory)


def account_names(path: str) -> list[str]:
    """Return the names in a file of the format of passwd(5) or group(5); [] if there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return [line.split(":", 1)[0] for line in stream if ":" in line and not line.startswith("#")]
    except FileNotFoundError:
        return []


def host_state(manager: str) -> dict[str, list[str]]:
    """Return the names that installing packages may add to: packages, and the accounts that their scripts make."""
    return {
        "package": installed(manager),
        "user": account_names("/etc/passwd"),
        "group": account_names("/etc/group"),
    }


def moment() -> dict[str, Any]:
    """Return the time since boot (`up`, seconds) and the boot id. Unlike the wall clock, nobody can set these."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    try:
        boot = BOOT_ID.read_text("utf-8").strip()
    except OSError:
        boot = ""
    return {"boot": boot, "up": time.monotonic() if clock is None else time.clock_gettime(clock)}


def is_abandoned(snapshot: Entry, now: Entry, older_than: float) -> bool:
    """Return whether the run that wrote a list has ended: the host has booted since, or `older_than` s have passed."""
    up = snapshot.get("up", float("inf"))
    return bool(snapshot.get("boot") != now["boot"] or up > now["up"] or now["up"] - up >= older_than)


def remember_packages(manifest: str, manager: str, wanted: Sequence[str], user: str) -> str:
    """List what the host has before `wanted` is installed, in a file beside the manifest; return its name."""
    name = f"{SNAPSHOT}{secrets.token_hex(8)}.json"
    wanted = [*wanted, *BINDINGS.get(manager, [])]
    state = {"manager": manager, "wanted": wanted, "before": host_state(manager), **moment()}
    write_json(os.path.join(os.path.dirname(manifest), name), state)
    return name


def settle_packages(manifest: str, name: str, user: str) -> list[Entry]:
    """Add to the manifest what is new since the list `name` was written, and remove the list; return what was added."""
    path = os.path.join(os.path.dirname(manifest), os.path.basename(name))
    snapshot = read_json(path, None, trusted())
    if snapshot is None:
        return []
    before = snapshot["before"]
    new: list[Entry] = []
    for kind, names in host_state(snapshot["manager"]).items():
        more = {"manager": snapshot["manager"]} if kind == "package" else {}
        new += [{"kind": kind, **more, "name": name} for name in sorted(set(names) - set(before[kind]))]
    return _settled(manifest, path, new, user)


def settle_abandoned(manifest: str, user: str, older_than: float = ABANDONED) -> list[Entry]:
    """Do the same for the lists that killed runs have left; `older_than` is in seconds.

    The user may have installed packages since. So only these count: the packages that the run wanted, their
    dependencies, and packages marked as automatic. Accounts don't count. (Uninstalling keeps a package that another one
    needs in any case.) A list that root doesn't own is removed unused, since root must have written it.
    """
    added: list[Entry] = []
    directory, now = os.path.dirname(manifest), moment()
    for name in sorted(os.listdir(directory) if os.path.isdir(directory) else []):
        if not name.startswith(SNAPSHOT):
            continue
        path = os.path.join(directory, name)
        try:
            snapshot = read_json(path, None, trusted())
            if snapshot is None or not is_abandoned(snapshot, now, older_than):
                continue
            manager = snapshot["manager"]
            new_packages = set(installed(manager)) - set(snapshot["before"]["package"])
            ours = installed_for(manager, new_packages, snapshot["wanted"])
        except DAMAGED:
            remove(path)
            continue
        new = [{"kind": "package", "manager": manager, "name": package} for package in sorted(ours)]
        added += _settled(manifest, path, new, user)
    return added


def _settled(manifest: str, path: str, new: Sequence[Entry], user: str) -> list[Entry]:
    added = record(manifest, new, user)
    remove(path)
    return added
