"""Run GDB on a guest, with the commands that `rumplab guest debug` gives it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from kgdb.guest import Guest
from rumplab.gdb.kgdb_commands import KGDB, KgdbSession, commands

SECONDS = 60.0
CONTINUED = "connected.\n"


def session(guest: Guest, architecture: str, program: Path, sources: Path | None = None) -> KgdbSession:
    """Return the session of a guest whose program has the symbols too."""
    return KgdbSession(
        stub=KGDB,
        architecture=architecture,
        socket=str(guest.line),
        control=str(guest.control),
        symbols=str(program),
        sources=(("/usr/src/kgdb", str(sources)),) if sources else (),
    )


def argv(gdb: str, prepared: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return GDB's command line, without the user's settings and without questions."""
    return [gdb, "-nx", "-batch", *(part for command in (*prepared, *wanted) for part in ("-ex", command))]


def drive(gdb: str, prepared: Sequence[str], wanted: Sequence[str], timeout: float = SECONDS) -> str:
    """Run GDB with the commands, and return its output."""
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
    """Continue a waiting guest in GDB, send Ctrl-C at its login prompt, run the commands; return the output."""
    before = guest.said().count(CONTINUED)
    process = subprocess.Popen(
        argv(gdb, commands(of), ("continue", *wanted)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        guest.wait_for(CONTINUED, before + 1)
        guest.wait_for("login: ")
        # After it has sent the packet, GDB needs a moment until it waits for the reply and handles SIGINT.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
    return said.decode("utf-8", "replace")
