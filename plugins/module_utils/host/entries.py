"""Changes to a host outside the prefix that can be undone: how to make, record and undo each kind.

A change is a dictionary with `kind`, `name` and the keys of its kind; `entries` turns it into entries of the manifest.

file          `content`, `mode`, `group`: a whole file. The manifest has the `sha256` of its content.
line          `line`, `mode`, `group`: a line in a file that other programs write too; the file is made if need be.
group         a system group.
membership    `group`: a group that the account `name` joins.
statoverride  `owner`, `group`, `mode` of a file from a Debian package. The manifest has their former values.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import subprocess
from collections.abc import Sequence
from typing import Any

from .files import write_text as write_file
from .record import Entry

LIMIT = 60
CHANGED = ("file", "line", "membership", "statoverride")


def sha256(text: str) -> str:
    """Return the digest of a file's content in the form that the manifest has."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_text(path: str) -> str | None:
    """Return the content of a file, or None if there is no such file."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def write_text(path: str, text: str, mode: int, uid: int, gid: int) -> None:
    """Write a file atomically. The temporary file's prefix shows whose it is, since the directory isn't the lab's."""
    write_file(path, text, mode, (uid, gid), prefix=".rumplab-")


def with_line(text: str, line: str) -> str:
    """Return `text` with `line` before it; `text` keeps every byte, even a missing newline at its end."""
    return f"{line}\n{text}"


def without_lines(text: str, lines: Sequence[str]) -> str:
    """Return `text` without the first occurrence of each of `lines`."""
    rows = text.splitlines(keepends=True)
    for line in lines:
        if f"{line}\n" in rows:
            rows.remove(f"{line}\n")
    return "".join(rows)


def recorded(change: Entry, manifest: Sequence[Entry]) -> list[Entry]:
    """Return the manifest's entries of the same kind and name."""
    return [entry for entry in manifest if (entry["kind"], entry["name"]) == (change["kind"], change["name"])]


def members(group: str) -> list[str]:
    """Return the accounts of a group, also those that have it as primary group; [] if there is no such group."""
    try:
        found = grp.getgrnam(group)
    except KeyError:
        return []
    return [*found.gr_mem, *(user.pw_name for user in pwd.getpwall() if user.pw_gid == found.gr_gid)]


def state_of(path: str) -> tuple[str, str, str]:
    """Return (owner, group, mode as dpkg-statoverride writes it) of a file."""
    status = os.stat(path)
    owner, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    return owner, group, f"{status.st_mode & 0o7777:04o}"


def overridden(path: str) -> bool:
    """Return whether dpkg has an override for this file's permissions."""
    run = subprocess.run(["dpkg-statoverride", "--list", path], capture_output=True, timeout=LIMIT, check=False)
    return run.returncode == 0


def is_made(change: Entry, manifest: Sequence[Entry]) -> bool:
    """Return whether the change is already made. ValueError if a file or override of somebody else prevents it."""
    kind, name = change["kind"], change["name"]
    if kind == "group":
        return any(entry.gr_name == name for entry in grp.getgrall())
    if kind == "membership":
        return name in members(change["group"])
    if kind == "statoverride":
        wanted = (change["owner"], change["group"], change["mode"])
        if state_of(name) == wanted and overridden(name):
            return True
        if overridden(name) and not recorded(change, manifest):
            raise ValueError(
                f"dpkg-statoverride already sets {name} to {' '.join(state_of(name))}; remove that override, or set it"
                f" to {' '.join(wanted)} yourself"
            )
        return False
    text = read_text(name)
    if kind == "line":
        stale = {entry["line"] for entry in recorded(change, manifest)} - {change["line"]}
        lines = (text or "").splitlines()
        return change["line"] in lines and not stale & set(lines)
    if text is not None and not recorded(change, manifest):
        raise ValueError(f"{name} exists and isn't rumplab's; move it away")
    return text == change["content"] and os.stat(name).st_mode & 0o7777 == int(change["mode"], 8)


def text_for(change: Entry, manifest: Sequence[Entry]) -> str:
    """Return the file's new content: that of the change, or the present content with the change's line."""
    if change["kind"] == "file":
        content: str = change["content"]
        return content
    lines = [entry["line"] for entry in recorded(change, manifest)]
    return with_line(without_lines(read_text(change["name"]) or "", lines), change["line"])


def entries(change: Entry, manifest: Sequence[Entry]) -> list[Entry]:
    """Return the entries that the manifest must have before the change is made."""
    kind, name = change["kind"], change["name"]
    if kind == "group":
        return [{"kind": kind, "name": name}]
    if kind == "membership":
        return [{"kind": kind, "name": name, "group": change["group"]}]
    if kind == "statoverride":
        if recorded(change, manifest):
            return []
        owner, group, mode = state_of(name)
        return [{"kind": kind, "name": name, "owner": owner, "group": group, "mode": mode}]
    made: list[Entry] = []
    ours = recorded({"kind": "file", "name": name}, manifest)
    if ours or not os.path.exists(name):
        made.append({"kind": "file", "name": name, "sha256": sha256(text_for(change, manifest))})
    if kind == "line":
        made.append({"kind": kind, "name": name, "line": change["line"]})
    return made


def make(change: Entry, manifest: Sequence[Entry]) -> None:
    """Make the change. `manifest` is the manifest before the change's entries were added."""
    kind, name = change["kind"], change["name"]
    if kind == "group":
        call(["groupadd", "--system", name])
    elif kind == "membership":
        call(["gpasswd", "--add", name, change["group"]])
    elif kind == "statoverride":
        if overridden(name):
            call(["dpkg-statoverride", "--remove", name])
        call(["dpkg-statoverride", "--update", "--add", change["owner"], change["group"], change["mode"], name])
    else:
        text = text_for(change, manifest)
        if os.path.exists(name) and not recorded({"kind": "file", "name": name}, manifest):
            status = os.stat(name)
            write_text(name, text, status.st_mode & 0o7777, status.st_uid, status.st_gid)
        else:
            gid = grp.getgrnam(change["group"]).gr_gid if change.get("group") else 0
            write_text(name, text, int(change["mode"], 8), 0, gid)


def is_there(entry: Entry, manifest: Sequence[Entry]) -> bool:
    """Return whether the change is still in place, as it was made, so that it can be undone."""
    kind, name = entry["kind"], entry["name"]
    if kind == "membership":
        try:
            return name in grp.getgrnam(entry["group"]).gr_mem
        except KeyError:
            return False
    if kind == "statoverride":
        return overridden(name)
    text = read_text(name)
    if kind == "line":
        return text is not None and entry["line"] in text.splitlines()
    return text is not None and sha256(text) in [item["sha256"] for item in recorded(entry, manifest)]


def undo(entry: Entry) -> None:
    """Undo one change."""
    kind, name = entry["kind"], entry["name"]
    if kind == "membership":
        call(["gpasswd", "--delete", name, entry["group"]])
    elif kind == "statoverride":
        call(["dpkg-statoverride", "--remove", name])
        if os.path.exists(name):
            # chown clears the set-user-ID bit, so the mode is set after it.
            os.chown(name, pwd.getpwnam(entry["owner"]).pw_uid, grp.getgrnam(entry["group"]).gr_gid)
            os.chmod(name, int(entry["mode"], 8))
    elif kind == "file":
        os.unlink(name)
    else:
        status = os.stat(name)
        text = without_lines(read_text(name) or "", [entry["line"]])
        write_text(name, text, status.st_mode & 0o7777, status.st_uid, status.st_gid)


def call(argv: Sequence[str]) -> None:
    """Run a command; if it fails, ValueError has its error output."""
    run = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    if run.returncode:
        raise ValueError(f"{' '.join(argv)}: {(run.stderr or run.stdout).strip()}")


def kept(manifest: Sequence[Entry]) -> list[str]:
    """Return the manifest's files that somebody has changed since."""
    files = [entry for entry in manifest if entry["kind"] == "file"]
    return sorted({entry["name"] for entry in files if os.path.exists(entry["name"]) and not is_there(entry, files)})


def undoable(manifest: Sequence[Entry]) -> list[Any]:
    """Return the entries to undo: whole files first; then lines, in the files that were changed and stay."""
    order = [entry for kind in CHANGED for entry in reversed(manifest) if entry["kind"] == kind]
    return [entry for entry in order if is_there(entry, manifest)]
