"""Small files of the lab: JSON, written whole or not at all, and owned by the lab user."""

from __future__ import annotations

import json
import os
import pwd
import tempfile
from collections.abc import Mapping
from typing import Any


def read_json(path: str, otherwise: Any) -> Any:
    """Return the content of a JSON file, or `otherwise` where there is no such file. ValueError names a bad one."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return otherwise
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it and run ./provision again") from error


def fingerprints(paths: Mapping[str, str]) -> dict[str, str]:
    """Return size and time of change, by logical name, of files whose replacement is to be noticed."""
    found = {}
    for name, path in paths.items():
        status = os.stat(path)
        found[name] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def account_of(user: str) -> pwd.struct_passwd | None:
    """Return the user's account, or None while it isn't there yet."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return None


def missing_parents(path: str) -> list[str]:
    """Return the directories above `path` that don't exist, the topmost first."""
    missing: list[str] = []
    parent = os.path.dirname(path)
    while parent != "/" and not os.path.isdir(parent):
        missing.insert(0, parent)
        parent = os.path.dirname(parent)
    return missing


def make_directory(path: str) -> None:
    """Make a directory that every user of the host may read, whatever the umask of whoever runs the play."""
    os.mkdir(path)
    os.chmod(path, 0o755)


def write_json(path: str, content: Any, user: str) -> None:
    """Write JSON by way of a temporary file and a rename; root gives the file to `user`, once there is one."""
    descriptor, fresh = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2, sort_keys=True, ensure_ascii=False)
            stream.write("\n")
        os.chmod(fresh, 0o644)
        account = account_of(user)
        if os.geteuid() == 0 and account:
            os.chown(fresh, account.pw_uid, account.pw_gid)
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise
