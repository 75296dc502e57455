"""Where a place in a program is: GDB knows, from its symbols."""

from __future__ import annotations

import os
import re
import subprocess

from rumplab.errors import RumplabError
from rumplab.gdb.command_line import gdb_quote
from rumplab.host import child_environment

SECONDS = 30.0
# What GDB says of a breakpoint that it would set.
SET = re.compile(r"^Breakpoint 1 at (0x[0-9a-f]+)", re.MULTILINE)


def address(gdb: str, program: str | None, location: str) -> int:
    """The address where a breakpoint at `location` would be. RumplabError where there is none."""
    if program is None:
        raise RumplabError(f"'{location}' needs symbols, and the recording has none; name an instruction by its number")
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
        raise RumplabError(f"GDB did not find '{location}' within {SECONDS:.0f} s") from error
    found = SET.search(done.stdout)
    if found is None:
        said = done.stderr.strip().splitlines()
        raise RumplabError(
            f"no place '{location}' in {os.path.basename(program)}: {said[-1] if said else 'GDB says nothing'}"
        )
    return int(found[1], 16)
