"""Builds GDB's command line and replaces the process by GDB, for ``rumplab debug`` and ``rumplab guest debug``."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from rumplab.errors import RumplabError, UsageError
from rumplab.gdb import pipe
from rumplab.host import child_environment
from rumplab.host.files import sha256
from rumplab.lab.config import Lab
from rumplab.machine.registry import Machine

COMPONENT = "gdb"
# The first version of GDB whose 'target remote' accepts the path of a UNIX socket.
TAKES_SOCKETS = (8, 3)
VERSION = re.compile(r"(\d+)\.(\d+)")
# An expression that GDB can evaluate only while it is attached to a stopped machine.
STOPPED = "$pc == $pc"
FLAG = "rumplab_held"
# A GDB linespec: a function, FILE:LINE or *ADDRESS, optionally with a condition.
LOCATION = re.compile(r"[^\x00-\x1f]+")


@dataclass(frozen=True)
class Session:
    """One GDB session: runs to `location`, then executes `commands`, then `scripts`. `sources` is a directory; `remote`
    is the argument of 'target remote'."""

    gdb: str
    gdbinit: str | None
    remote: str
    program: str | None
    sources: str | None = None
    location: str | None = None
    commands: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    batch: bool = False
    extra: tuple[str, ...] = ()


def add_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every verb that starts GDB has."""
    parser.add_argument(
        "--ex", metavar="COMMAND", action="append", default=[], help="a GDB command to execute; repeatable"
    )
    parser.add_argument(
        "--script", metavar="FILE", action="append", default=[], help="a file of GDB commands; repeatable"
    )
    parser.add_argument(
        "--batch", action="store_true", help="end GDB after these commands; ask nothing, read no .gdbinit of yours"
    )
    parser.add_argument("--symbols", metavar="FILE", help="an ELF file with the symbols, instead of the one on record")


def command_line(session: Session, attach: Iterable[str]) -> list[str]:
    """GDB's command line, with the commands `attach` before the session's own. GDB 7.6 and later accept it."""
    argv = [session.gdb, "-q"]
    # The user's own .gdbinit must not change what a script sees.
    argv += ["-nx", "-batch"] if session.batch else []
    argv += ["-ix", session.gdbinit] if session.gdbinit else []
    for command in attach:
        argv += ["-ex", command]
    for command in session.commands:
        argv += ["-ex", command]
    for script in session.scripts:
        argv += ["-x", script]
    return [*argv, *session.extra]


def either(flag: str, none: str, one: str, rest: str = "") -> str:
    """A GDB command that executes the command `none` if the convenience variable `flag` is 0, and `one` if it is 1.
    Both have the same length; `rest` is appended. GDB's `if` needs several lines, which `-ex` can't have, and GDB may
    lack Python, so the command computes the letters."""
    letters = [f"{ord(no)} + {ord(yes) - ord(no)} * ${flag}" for no, yes in zip(none, one)]
    return f'eval "{"%c" * len(none)}{rest}", {", ".join(letters)}'


def go_on_if(fact: str, held: bool) -> list[str]:
    """Commands that end GDB with status 1 unless GDB can evaluate the expression `fact` and it is true. With `held`,
    GDB disconnects first, so that the machine stays stopped. GDB runs each `-ex` even if the one before it has
    failed."""
    # GDB's `stop` does nothing; it exists for hooks.
    leave = [either(FLAG, "disc", "stop")] if held else []
    return [f"set ${FLAG} = 0", f"set ${FLAG} = {fact}", *leave, either(FLAG, "quit", "stop", " 1")]


def attached(connect: str) -> list[str]:
    """The commands that attach with the command `connect`, and end GDB if that fails."""
    return [connect, *go_on_if(STOPPED, held=False)]


def run_to(location: str, how: str) -> list[str]:
    """The commands that set a breakpoint with GDB's command `how` and continue to it. They end GDB if the breakpoint
    can't be set, or if the machine ends before it stops there."""
    return [
        # A pending breakpoint waits for a library to be loaded. A kernel loads none, so GDB would never hit it.
        "set breakpoint pending off",
        "set $bpnum = 0",
        f"{how} {location}",
        *go_on_if("$bpnum != 0", held=True),
        "set breakpoint pending auto",
        "continue",
        *go_on_if(STOPPED, held=False),
    ]


def gdb_quote(path: str) -> str:
    """`path` as one argument of a GDB command."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def debugger(lab: Lab) -> tuple[str, str | None]:
    """The paths of the lab's GDB and of its gdbinit (None if it has none). NotProvisioned when there is no GDB."""
    gdb = lab.component(COMPONENT)
    return gdb.path("gdb"), gdb.path("gdbinit") if "gdbinit" in gdb.paths else None


def takes_sockets(version: str | None) -> bool:
    """Whether a GDB of this version opens a UNIX socket itself; False for an unknown version."""
    found = VERSION.match(version or "")
    return found is not None and tuple(map(int, found.groups())) >= TAKES_SOCKETS


def remote(stub: str, version: str | None, relay: Sequence[str] | None = None) -> str:
    """The argument of 'target remote' for the stub at `stub` (see Machine.stub) in a GDB of `version`. An old GDB uses
    a pipe to reach a socket; `relay` is the pipe's command, this tool's own by default."""
    if not os.path.isabs(stub) or takes_sockets(version):
        return stub
    return f"| {shlex.join(relay or pipe.argv(stub, through=True))}"


def symbols_of(machine: Machine) -> str | None:
    """The path of the machine's program; None when it is unknown or gone. Warns on stderr when it is missing or has
    changed."""
    if machine.program is None:
        warn(f"{machine.name} has no program on record, so no symbols; give them with --symbols FILE")
        return None
    if not os.path.isfile(machine.program):
        warn(f"{machine.program} is gone, so there are no symbols; give them with --symbols FILE")
        return None
    if machine.program_sha256 and sha256(machine.program) != machine.program_sha256:
        warn(f"{machine.program} has changed since it was staged; symbols may not fit: stage it again")
    return machine.program


def warn(message: str) -> None:
    print(f"rumplab debug: {message}", file=sys.stderr)


def check_files(*paths: str | None) -> None:
    """RumplabError for the first of `paths` that isn't a file, or that this user may not read; None is skipped."""
    for path in paths:
        if path is not None and not os.path.isfile(path):
            raise RumplabError(f"{path}: no such file")
        if path is not None and not os.access(path, os.R_OK):
            raise RumplabError(f"{path}: permission denied; make it readable with: chmod u+r {shlex.quote(path)}")


def checked_location(location: str | None) -> str | None:
    """`location`, if it is one line of text or None. Else UsageError."""
    if location is not None and not LOCATION.fullmatch(location):
        raise UsageError("SYMBOL must be one line: a function, FILE:LINE or *ADDRESS, optionally with 'if CONDITION'")
    return location


def replace_process(argv: list[str], batch: bool, lock: int | None) -> NoReturn:
    """Replaces this process by GDB, so that Ctrl-C and a caller's signals reach only GDB. GDB inherits the open file
    `lock`, so it holds the lock until it ends, in whatever way. With `batch`, standard input is /dev/null."""
    sys.stdout.flush()
    if lock is not None:
        os.set_inheritable(lock, True)
    if batch:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execve(argv[0], argv, child_environment.of(child_environment.GDB))
