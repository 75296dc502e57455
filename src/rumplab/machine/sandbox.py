"""QEMU's sandbox. It limits what a guest that breaks out of QEMU, or a user of its monitor, can do.

The sandbox is a filter of system calls (seccomp). It needs Linux and a QEMU that was built with it. A test start of
QEMU shows whether it works here, and the result is stored.
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
# Denies obsolete system calls, changing the user, starting a program, and changing priorities.
CLOSED = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# For QEMU's -daemonize, which creates a process and a session.
DAEMON = "on,obsolete=deny,resourcecontrol=deny"


def choose(
    emulator: str,
    version: str | None,
    directory: Path,
    helped: bool = False,
    extra: Sequence[str] = (),
    platform: str = sys.platform,
) -> str | None:
    """Returns the value of -sandbox; None if QEMU gets none. That is the case if `extra`, the user's arguments for
    QEMU, has a -sandbox, if QEMU must run qemu-bridge-helper (`helped`), or if the sandbox doesn't work here.
    `directory` is where that result is stored."""
    own = any(word.lstrip("-") == "sandbox" for word in extra)
    # seccomp sets no_new_privs, so the kernel ignores the setuid bit of programs that QEMU starts. qemu-bridge-helper
    # needs it.
    if own or helped or not platform.startswith("linux") or not supported(emulator, version, directory):
        return None
    return CLOSED


def supported(emulator: str, version: str | None, directory: Path) -> bool:
    """Returns whether `emulator` can run in its sandbox here: the result stored in `directory`, or that of a test."""
    cache = directory / CACHE
    wanted = [emulator, version, os.stat(emulator).st_mtime_ns, os.uname().release]
    known = recall(cache, wanted)
    if known is None:
        known = works(emulator)
        remember(cache, {"key": wanted, "works": known})
        if not known:
            print(
                f"rumplab: {emulator} can't run in its sandbox here: it was built without seccomp, or this host has"
                " none; a guest that breaks out of QEMU can do all that you can do",
                file=sys.stderr,
            )
    return known


def works(emulator: str) -> bool:
    """Starts an empty machine in the sandbox and tells its monitor to quit. Returns whether QEMU ended without an
    error."""
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
    """Returns the stored result if its key is `wanted`; None otherwise."""
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
        return bool(data["works"]) if data["key"] == wanted else None
    except (OSError, *MALFORMED):
        return None


def remember(cache: Path, data: dict[str, Any]) -> None:
    """Stores the result. Ignores an error: without the file, the next start tests again."""
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")
        temporary.replace(cache)
    except OSError:
        temporary.unlink(missing_ok=True)
