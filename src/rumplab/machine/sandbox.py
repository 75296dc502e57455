"""QEMU's own sandbox: what a QEMU that a guest has taken over, or a user of its monitor, can't do.

It is a filter of system calls (seccomp), which Linux has, and a QEMU that was built with it. Whether both are there is
found out once, by a QEMU that does nothing, and remembered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rumplab.host import child_environment
from rumplab.host.answers import MALFORMED

CACHE = ".sandbox.json"
SECONDS = 10.0
# No old system call, no other user, no other program, no other priority.
CLOSED = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# Of a QEMU that goes to the background by itself, which makes a process.
DAEMON = "on,obsolete=deny,resourcecontrol=deny"


def choose(
    emulator: str,
    version: str | None,
    directory: Path,
    helped: bool = False,
    extra: Sequence[str] = (),
    platform: str = sys.platform,
) -> str | None:
    """The value of -sandbox; None for none, and where the further arguments `extra` have their own. With `helped`, QEMU
    is to run qemu-bridge-helper. `directory` is for what is remembered."""
    own = any(word.lstrip("-") == "sandbox" for word in extra)
    # Whatever it allows, the kernel gives no program that QEMU runs in it root's rights, and qemu-bridge-helper needs
    # them.
    if own or helped or not platform.startswith("linux") or not supported(emulator, version, directory):
        return None
    return CLOSED


def supported(emulator: str, version: str | None, directory: Path) -> bool:
    """Whether `emulator` can run in its sandbox here, as it is remembered in `directory`, or tried."""
    cache = directory / CACHE
    wanted = [emulator, version, os.stat(emulator).st_mtime_ns, os.uname().release]
    known = recall(cache, wanted)
    if known is None:
        known = works(emulator)
        remember(cache, {"key": wanted, "works": known})
        if not known:
            print(
                f"rumplab: {emulator} can't run in its sandbox here: it was built without seccomp, or this host has"
                " none; a guest that breaks out of it has all that you have",
                file=sys.stderr,
            )
    return known


def works(emulator: str) -> bool:
    """Runs a machine without anything, whose monitor is told to end at once."""
    command = [emulator, "-machine", "none", "-nodefaults", "-display", "none", "-sandbox", CLOSED, "-monitor", "stdio"]
    try:
        done = subprocess.run(
            command,
            env=child_environment.of(child_environment.QEMU),
            input=b"quit\n",
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def recall(cache: Path, wanted: list[Any]) -> bool | None:
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
        return bool(data["works"]) if data["key"] == wanted else None
    except (OSError, *MALFORMED):
        return None


def remember(cache: Path, data: dict[str, Any]) -> None:
    """Writes the answer. A cache that can't be written costs time, not the run."""
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")
        temporary.replace(cache)
    except OSError:
        temporary.unlink(missing_ok=True)
