"""GDB's command line, and turning into GDB: what ``rumplab debug`` and ``rumplab guest debug`` have in common."""

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
# The first version whose 'target remote' takes the path of a UNIX socket, as numbers.
TAKES_SOCKETS = (8, 3)
VERSION = re.compile(r"(\d+)\.(\d+)")
# A place as GDB's linespecs have it: a function, FILE:LINE or *ADDRESS, maybe with a condition.
# What GDB can tell of a machine that it is attached to and that is stopped, and of no other.
STOPPED = "$pc == $pc"
FLAG = "rumplab_held"
LOCATION = re.compile(r"[^\x00-\x1f]+")


@dataclass(frozen=True)
class Session:
    """One GDB session: runs to `location`, then `commands`, then `scripts`. `sources` is a directory, `remote` what
    'target remote' takes: the stub as the debugger sees it."""

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
    """What every verb that ends in GDB takes."""
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
    """GDB's command line, with the commands `attach` before the session's own. Nothing in it is newer than GDB 7.6."""
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
    """The GDB command `none` while the convenience variable `flag` is 0, and `one` when it is 1, words of one length,
    with `rest` behind. GDB's `if` takes lines that no command line has; without Python, arithmetic has to do."""
    letters = [f"{ord(no)} + {ord(yes) - ord(no)} * ${flag}" for no, yes in zip(none, one)]
    return f'eval "{"%c" * len(none)}{rest}", {", ".join(letters)}'


def go_on_if(fact: str, held: bool) -> list[str]:
    """Commands that end GDB, with status 1, unless the expression `fact` can be evaluated and is true. The machine
    stays where it is: with `held`, it is left without being told to run. Each `-ex` is run whatever became of the one
    before it."""
    # GDB's `stop` does nothing: it is there for hooks.
    leave = [either(FLAG, "disc", "stop")] if held else []
    return [f"set ${FLAG} = 0", f"set ${FLAG} = {fact}", *leave, either(FLAG, "quit", "stop", " 1")]


def attached(connect: str) -> list[str]:
    """The commands that attach, by `connect`, or end GDB."""
    return [connect, *go_on_if(STOPPED, held=False)]


def run_to(location: str, how: str) -> list[str]:
    """The commands that set a breakpoint, by GDB's command `how`, and go on to it; they end GDB where there is none to
    set, or when the machine has ended before."""
    return [
        # A breakpoint for a library that may yet be loaded would never be met.
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
    """The lab's GDB, and its settings where it has any. NotProvisioned where there is none."""
    gdb = lab.component(COMPONENT)
    return gdb.path("gdb"), gdb.path("gdbinit") if "gdbinit" in gdb.paths else None


def takes_sockets(version: str | None) -> bool:
    """Whether the GDB of this version opens a UNIX socket itself; one that tells none isn't believed to."""
    found = VERSION.match(version or "")
    return found is not None and tuple(map(int, found.groups())) >= TAKES_SOCKETS


def remote(stub: str, version: str | None, relay: Sequence[str] | None = None) -> str:
    """What 'target remote' takes for the stub at `stub` (see Machine.stub) in a GDB of `version`. An old one gets to a
    socket by a pipe; `relay` is the command of that, where it isn't this very tool's."""
    if not os.path.isabs(stub) or takes_sockets(version):
        return stub
    return f"| {shlex.join(relay or pipe.argv(stub, through=True))}"


def symbols_of(machine: Machine) -> str | None:
    """The machine's program, if it is still there; says on stderr what is wrong with it."""
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
    """RumplabError names the first of `paths`, where it isn't None, that is no file."""
    for path in paths:
        if path is not None and not os.path.isfile(path):
            raise RumplabError(f"{path}: no such file")


def checked_location(location: str | None) -> str | None:
    """`location`, if it is one line of text; UsageError otherwise."""
    if location is not None and not LOCATION.fullmatch(location):
        raise UsageError("SYMBOL must be one line: a function, FILE:LINE or *ADDRESS, maybe with 'if CONDITION'")
    return location


def replace_process(argv: list[str], batch: bool, lock: int | None) -> NoReturn:
    """GDB takes this process's place, so that Ctrl-C and a caller's signals reach it alone. It holds `lock` from then
    on, since it has the file open, and drops it however it ends."""
    sys.stdout.flush()
    if lock is not None:
        os.set_inheritable(lock, True)
    if batch:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execve(argv[0], argv, child_environment.of(child_environment.GDB))
