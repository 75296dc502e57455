"""The recipe of a C program: compile, link, bake."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rumplab.building.golang import bake_step
from rumplab.building.recipe import WORK, Recipe, Step, flags
from rumplab.building.target import Tools
from rumplab.errors import RumplabError

SUFFIX = ".c"
# The variables of make's built-in rules.
COMPILER_FLAGS = ("CPPFLAGS", "CFLAGS")
LINKER_FLAGS = ("LDFLAGS", "LDLIBS")


@dataclass(frozen=True)
class CProgram:
    """The C files of one directory. `sources` maps each path to the SHA-256 of its content, in hex digits."""

    directory: str
    sources: Mapping[str, str]
    compiler_flags: tuple[str, ...]
    linker_flags: tuple[str, ...]


def read(directory: str, only: str | None, environment: Mapping[str, str]) -> CProgram:
    """The program of all C files in `directory`, or of its file `only`. RumplabError when there is none."""
    names = [only] if only else sorted(entry.name for entry in os.scandir(directory) if entry.is_file())
    sources = {
        os.path.join(directory, name): hashlib.sha256(Path(directory, name).read_bytes()).hexdigest()
        for name in names
        # Hidden files are skipped, as the shell's *.c does: editors and other systems create some.
        if name.endswith(SUFFIX) and (only or not name.startswith("."))
    }
    if not sources:
        raise RumplabError(f"{directory} has no C file; name a directory with .c files, or one such file")
    return CProgram(directory, sources, flags(COMPILER_FLAGS, environment), flags(LINKER_FLAGS, environment))


def recipe(program: CProgram, tools: Tools, bake: str) -> Recipe:
    """The recipe that builds a unikernel from `program` with rumprun's configuration `bake`."""
    compiling = Step(
        name="compile",
        argv=(
            *(tools.target.gcc, "-g", *program.compiler_flags, "-o", f"{WORK}/program", *program.sources),
            *program.linker_flags,
        ),
        directory=program.directory,
        environment={"TMPDIR": f"{WORK}/tmp"},
        telling=True,
    )
    return Recipe(steps=(compiling, bake_step(tools, bake)), path=tools.path)
