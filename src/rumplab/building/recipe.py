"""The steps that build a program, as data. Module `runner` executes them; `shell` prints them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from rumplab.errors import UsageError

# A placeholder for the work directory in every string of a recipe. No path or argument can contain a NUL.
WORK = "\0work\0"
RESULT = "program.bin"


@dataclass(frozen=True)
class Step:
    """One command. It runs in `directory`, with `environment` added to the caller's. With `telling`, its output is
    shown even if it succeeds."""

    name: str
    argv: tuple[str, ...]
    directory: str = WORK
    environment: Mapping[str, str] = field(default_factory=dict)
    telling: bool = False


@dataclass(frozen=True)
class Recipe:
    """The content of the work directory, and the steps, which write the unikernel to `program.bin` in it.

    `files` maps paths in the work directory to contents, `copies` and `links` map them to the user's paths. `copies`
    are Go files; each copy starts with a line that tells the compiler the original path. `links` are symbolic links.
    `path` are directories for PATH.

    `own` and `relative` are for messages. `own` maps directories of the work directory to the user's directories.
    `relative` maps a package (see explain.heading) to the files that messages name without a directory. A line
    "# PACKAGE" of go tells the package of the messages that follow it; messages before such a line are the first
    package's.
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
        """The directories to make in the work directory, parents first."""
        parents = {os.path.dirname(name) for name in (*self.files, *self.copies, *self.links)}
        return ("tmp", *sorted(parents - {""}))


def flags(names: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The words of the environment variables `names`, split as a shell does. UsageError when quotes aren't closed."""
    words: list[str] = []
    for name in names:
        try:
            words += shlex.split(environment.get(name, ""))
        except ValueError as error:
            raise UsageError(f"{name}={environment[name]!r}: {error}") from error
    return tuple(words)


def origin(source: str) -> str:
    """The line that makes Go's compiler, and so the debugger, attribute the following lines to the file `source`."""
    return f"//line {source}:1\n"


def generated(name: str) -> str:
    """The text for messages about the file `name`, which the build generates and the user doesn't have."""
    return f"({name}, which build adds)"


def in_work(text: str, work: str) -> str:
    """`text` with WORK replaced by the path `work`."""
    return text.replace(WORK, work)


def quoted(text: str) -> str:
    """`text` as one word of a shell in whose variable $work is the work directory."""
    parts = [shlex.quote(part) if part else "" for part in text.split(WORK)]
    return '"$work"'.join(parts) or "''"


def command(step: Step) -> str:
    """The step's command as a line of shell."""
    settings = [f"{name}={quoted(value)}" for name, value in step.environment.items()]
    return " ".join([*settings, *map(quoted, step.argv)])


def shell(recipe: Recipe, output: str) -> str:
    """`recipe` as a POSIX shell command that writes `output`. The user can paste it into a shell."""
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
