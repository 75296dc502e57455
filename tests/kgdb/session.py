"""GDB on a guest, prepared as `rumplab guest debug` prepares it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from kgdb.guest import Guest
from rumplab.gdb.kgdb_commands import KGDB, KgdbSession, commands

SECONDS = 60.0
GONE_ON = "connected.\n"


def session(guest: Guest, architecture: str, program: Path, sources: Path | None = None) -> KgdbSession:
    """The session of a guest whose program is also its symbols."""
    return KgdbSession(
        stub=KGDB,
        architecture=architecture,
        socket=str(guest.line),
        control=str(guest.control),
        symbols=str(program),
        sources=(("/usr/src/kgdb", str(sources)),) if sources else (),
    )


def argv(gdb: str, prepared: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """GDB's command line: no settings of the user's, no questions."""
    return [gdb, "-nx", "-batch", *(part for command in (*prepared, *wanted) for part in ("-ex", command))]


def drive(gdb: str, prepared: Sequence[str], wanted: Sequence[str], timeout: float = SECONDS) -> str:
    """Run GDB through the commands and return what it printed."""
    done = subprocess.run(
        argv(gdb, prepared, wanted),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace")


def interrupted(gdb: str, guest: Guest, of: KgdbSession, wanted: Sequence[str]) -> str:
    """Let a guest that waits for GDB run under it, press Ctrl-C once it does and has its login, then the wanted
    commands."""
    before = guest.said().count(GONE_ON)
    process = subprocess.Popen(
        argv(gdb, commands(of), ("continue", *wanted)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        guest.wait_for(GONE_ON, before + 1)
        guest.wait_for("login: ")
        # GDB takes a moment from the packet to waiting for what comes of it.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
    return said.decode("utf-8", "replace")
