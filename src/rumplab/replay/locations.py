"""Finds the address of a location in a program, by GDB."""

from __future__ import annotations

import os
import re
import subprocess

from rumplab.errors import RumplabError
from rumplab.gdb.command_line import gdb_quote
from rumplab.host import child_environment

SECONDS = 30.0
# GDB's message about a breakpoint that it has set.
SET = re.compile(r"^Breakpoint 1 at (0x[0-9a-f]+)", re.MULTILINE)


def address(gdb: str, program: str | None, location: str) -> int:
    """Returns the address of a breakpoint at `location`. RumplabError if `program` has no such location."""
    if program is None:
        raise RumplabError(f"'{location}' needs symbols, and the recording has none; give a number of instructions")
    argv = [gdb, "-nx", "-batch", "-ex", "set breakpoint pending off", "-ex", f"file {gdb_quote(program)}"]
    try:
        done = subprocess.run(
            [*argv, "-ex", f"break {location}"],
            env=child_environment.of(child_environment.TOOL),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RumplabError(f"GDB did not find '{location}' within {SECONDS:.0f} s; is the host busy?") from error
    found = SET.search(done.stdout)
    if found is None:
        errors = done.stderr.strip().splitlines()
        raise RumplabError(
            f"GDB found no '{location}' in {os.path.basename(program)}: {errors[-1] if errors else 'no message'}"
        )
    return int(found[1], 16)
