"""What is done to build a program, as data: `runner` carries it out, `shell` prints it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from rumplab.errors import UsageError

# Stands for the work directory in every string of a recipe; no path and no argument can hold a NUL.
WORK = "\0work\0"
RESULT = "program.bin"


@dataclass(frozen=True)
class Step:
    """One command, run in `directory` with `environment` besides the caller's. Its output is shown though it
    succeeds where `telling` is set."""

    name: str
    argv: tuple[str, ...]
    directory: str = WORK
    environment: Mapping[str, str] = field(default_factory=dict)
    telling: bool = False


@dataclass(frozen=True)
class Recipe:
    """The work directory's content, then the steps, which leave the unikernel in its `program.bin`.

    Keys of the mappings are paths in the work directory. `copies` are Go files: each gets a first line that
    tells the compiler where the file really is. `links` are symbolic. `own` maps directories of the work
    directory to those of the user, for messages; `relative` are the files that messages name without a directory,
    by package (explain.heading): go's line "# PACKAGE" says whose messages follow; before any, they are the first's.
    """

    steps: tuple[Step, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    relative: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories that must be made, parents first."""
        parents = {os.path.dirname(name) for name in (*self.files, *self.copies, *self.links)}
        return ("tmp", *sorted(parents - {""}))


def flags(names: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The words of the variables `names`; UsageError where a shell couldn't take one apart."""
    words: list[str] = []
    for name in names:
        try:
            words += shlex.split(environment.get(name, ""))
        except ValueError as error:
            raise UsageError(f"{name}={environment[name]!r}: {error}") from error
    return tuple(words)


def origin(source: str) -> str:
    """The line that makes Go's compiler, and so the debugger, take what follows for the file `source`."""
    return f"//line {source}:1\n"


def generated(name: str) -> str:
    """What a message calls the file `name` that the build has made: nobody finds it where the program is."""
    return f"({name}, which build adds)"


def in_work(text: str, work: str) -> str:
    """`text` with the work directory filled in."""
    return text.replace(WORK, work)


def quoted(text: str) -> str:
    """`text` as one word of a shell, in which $work is the work directory."""
    parts = [shlex.quote(part) if part else "" for part in text.split(WORK)]
    return '"$work"'.join(parts) or "''"


def command(step: Step) -> str:
    """One step as a line of shell."""
    settings = [f"{name}={quoted(value)}" for name, value in step.environment.items()]
    return " ".join([*settings, *map(quoted, step.argv)])


def shell(recipe: Recipe, output: str) -> str:
    """`recipe` as a POSIX shell command that writes `output`, fit to be pasted."""
    temporary = os.path.join(os.path.dirname(output), ".rumplab-build.XXXXXX")
    lines = [
        "set -eu",
        "work=$(mktemp -d)",
        f"made=$(mktemp {shlex.quote(temporary)})",
        """trap 'rm -rf "$work" "$made"' EXIT""",
        f'PATH={shlex.quote(":".join(recipe.path))}:"$PATH"',
        "export PATH",
    ]
    lines += [f'mkdir -p "$work"/{shlex.quote(name)}' for name in recipe.directories]
    for name, content in recipe.files.items():
        lines.append(f'printf %s {shlex.quote(content)} > "$work"/{shlex.quote(name)}')
    for name, source in recipe.copies.items():
        first = f"printf %s {shlex.quote(origin(source))}"
        lines.append(f'{{ {first}; cat {shlex.quote(source)}; }} > "$work"/{shlex.quote(name)}')
    lines += [f'ln -s {shlex.quote(source)} "$work"/{shlex.quote(name)}' for name, source in recipe.links.items()]
    for step in recipe.steps:
        lines += [f"cd {quoted(step.directory)}", command(step)]
    lines += [f'cp "$work"/{RESULT} "$made"', 'chmod 755 "$made"', f'mv "$made" {shlex.quote(output)}']
    return "(\n" + "\n".join(lines) + "\n)\n"
