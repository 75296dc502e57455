"""The record of `net up`, ``var/net/state.json``: its settings and the old kernel settings. `net up` writes it before
it changes anything.

The directory belongs to root, because root acts on the record; the prefix itself belongs to the lab user.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rumplab.errors import RumplabError
from rumplab.host import locks
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.network import settings as settings_module
from rumplab.network.settings import Settings

if TYPE_CHECKING:
    from typing import TypeGuard  # novm: only mypy imports it

LOCK = ".lock"
LOCK_SECONDS = 10.0
# The kernel settings that `seen.sysctls` reads. An interface's name may contain dots but no slash.
SYSCTL = re.compile(r"ip_forward|conf/all/accept_redirects|conf/(?!\.\.?/)[^/]+/forwarding")
NUMBER = re.compile("[0-9]{1,10}")
REMEDY = "rumplab net down --force"


@dataclass(frozen=True)
class Record:
    """The record. `session` identifies the boot and the network namespace. `sysctls` maps paths below
    /proc/sys/net/ipv4 to the values that `net down` restores."""

    settings: Settings
    session: str
    sysctls: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        data = {
            "schema": config.SCHEMA,
            "settings": self.settings.as_data(),
            "session": self.session,
            "sysctls": self.sysctls,
        }
        return json.dumps(data, indent=2) + "\n"


def directory(lab: Lab) -> Path:
    return lab.prefix / "var" / "net"


def state_path(where: Path) -> Path:
    return where / "state.json"


def session() -> str:
    """An identifier of this boot and this network namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"


def read(where: Path) -> Record | None:
    """The record in the directory `where`; None when there is none. RumplabError when it is invalid."""
    path = state_path(where)
    if not path.exists():
        return None
    remedy = f"{REMEDY}, after moving it away"
    data = config.read_object(path, remedy)
    sysctls, inner = data.get("sysctls"), data.get("settings")
    if not isinstance(inner, dict) or not is_sysctls(sysctls):
        raise RumplabError(f"{path} is not a record of 'net up'; write it again: {remedy}")
    return Record(
        settings=settings_module.parse(inner, path, remedy),
        session=config.text(data, "session", path, remedy),
        sysctls=sysctls,
    )


def is_sysctls(value: Any) -> TypeGuard[dict[str, str]]:
    """Whether `value` maps only kernel settings that `net up` changes, and each to a number."""
    return isinstance(value, dict) and all(
        isinstance(number, str) and NUMBER.fullmatch(number) and SYSCTL.fullmatch(name)
        for name, number in value.items()
    )


def check_own(where: Path) -> None:
    """RumplabError unless `where` is a directory that only root can write to."""
    info = where.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != 0 or info.st_mode & 0o022:
        raise RumplabError(f"{where} is not a directory that only root can write to; remove it, then try again")


@contextlib.contextmanager
def locked(where: Path) -> Iterator[None]:
    """Makes the directory and holds its lock. The kernel releases the lock when the process ends."""
    where.mkdir(mode=0o755, exist_ok=True)
    check_own(where)
    # Independent of root's umask: every user may read the status, and only root may write.
    where.chmod(0o755)
    # Every user can open the directory, and so could hold its lock; only root can open this file.
    handle = locks.opened(where / LOCK)
    try:
        locks.exclusive(handle, "another 'rumplab net'", str(where), LOCK_SECONDS)
        locks.record_holder(handle)
        yield
    finally:
        os.close(handle)
