"""Debug a kernel on a provisioned host, and print the output of GDB and of the console as JSON.

Usage, in the directory that has kgdb: python3 -m kgdb.drive GDB QEMU ARCHITECTURE PROGRAM SOURCES

The result has four texts: `stopped` (a session with a breakpoint, registers and the commands for NetBSD), `interrupted`
(a session that Ctrl-C interrupts), `again` (a session after another BREAK) and `console`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from kgdb import session
from kgdb.guest import WAITING, Guest
from rumplab.gdb import kgdb_commands

STOPPED = (
    *("break counter_step if ticks > 9", "continue", "bt", "stepi", "info registers"),
    *("set var counter = 77", "p counter", "p $eflags", "nb-ps", "nb-pci", "nb-dmesg", "detach"),
)


def drive(gdb: str, qemu: str, architecture: str, program: Path, sources: Path) -> dict[str, str]:
    """Start a guest that waits for GDB, run three sessions, with a BREAK before the second and third, and stop it."""
    with tempfile.TemporaryDirectory(prefix="rk") as directory, Guest(program, Path(directory), qemu=qemu) as guest:
        guest.wait_for(WAITING)
        of = session.session(guest, architecture, program, sources)
        stopped = session.drive(gdb, kgdb_commands.commands(of), STOPPED)
        guest.wait_for("login: ")
        guest.send_break()
        guest.wait_for(WAITING, 2)
        interrupted = session.interrupted(gdb, guest, of, ["bt", "detach"])
        guest.wait_for("connected.\n", 3)
        guest.send_break()
        guest.wait_for(WAITING, 4)
        again = session.drive(gdb, kgdb_commands.commands(of), ["p counter > 77", "kill"])
        guest.type("root", "uname", "poweroff")
        guest.ended()
        return {"stopped": stopped, "interrupted": interrupted, "again": again, "console": guest.said()}


if __name__ == "__main__":
    json.dump(drive(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5])), sys.stdout)
