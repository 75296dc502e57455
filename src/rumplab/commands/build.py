"""``rumplab build``: builds a rump unikernel from a Go or C program."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab import __version__, output
from rumplab.building import cprogram, golang, gopath, record, target
from rumplab.building.recipe import Recipe, shell
from rumplab.building.runner import DEPENDENCIES, Runner, deliver
from rumplab.building.target import Tools
from rumplab.container import runner
from rumplab.errors import RumplabError, UsageError
from rumplab.host import child_environment
from rumplab.host.process import interruptible
from rumplab.host.streams import script
from rumplab.lab import config
from rumplab.lab.config import Lab

EPILOG = """\
DIR holds a Go program (package main) or the .c files of a C program. The unikernel keeps its symbols. The command
writes nothing into DIR, except the unikernel if -o names a file there. If nothing has changed since the last build, it
calls no tool. For C programs it uses CPPFLAGS, CFLAGS, LDFLAGS and LDLIBS of the environment.

examples:
  rumplab build .
  rumplab build myapp -o myapp.bin
  rumplab build hello.c --bake hw_virtio
  rumplab build src --c -v                 C, though there are Go files; show the tools' output
  rumplab build myapp --dry-run            print the commands as shell
"""
SOURCES = (".go", *gopath.OTHER_SOURCES)
BAKE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# The environment variables whose values are part of the recipe.
PASSED = (*cprogram.COMPILER_FLAGS, *cprogram.LINKER_FLAGS, "CGO_CFLAGS")


@dataclass(frozen=True)
class Plan:
    """A build. `counted`, which can be JSON, has the names and hashes of the sources and of the linked files. `inputs`
    are their paths. `directories` are those in which compilers run."""

    kind: str
    recipe: Recipe
    counted: list[Any]
    directories: tuple[str, ...]
    inputs: frozenset[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="DIR|FILE", type=Path, help="the directory of a program, or a single .go or .c file"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("program.bin"),
        help="the unikernel to write (default: %(default)s)",
    )
    parser.add_argument(
        "--bake",
        metavar="CONF",
        default="hw_generic",
        help="the configuration of rumprun-bake, which says what drivers go in (default: %(default)s)",
    )
    parser.add_argument("--c", action="store_true", help="build the C program, though DIR holds Go files too")
    parser.add_argument("--keep-work", action="store_true", help="keep the work directory, and print where it is")
    parser.add_argument("-v", "--verbose", action="store_true", help="show each command and its output")
    runner.add_option(parser)
    parser.add_argument("--json", action="store_true", help="report as JSON, with the unikernel's SHA-256")
    parser.add_argument("--dry-run", action="store_true", help="print the commands as shell, run none")


def run(args: argparse.Namespace) -> int:
    started, since = time.monotonic(), time.time()
    source, made = absolute(args.source), absolute(args.output)
    directory, only = locate(source)
    is_c = args.c or chosen_c(directory, only)
    lab = config.load()
    needed = ("rump_toolchain",) if is_c else ("go_builder", "rump_toolchain")
    if runner.wanted(args.container, lab, sys.platform, *needed):
        return run_inside(args, lab, needed[0], directory, made)
    toolchain = lab.component("rump_toolchain")
    tools = target.tools(toolchain, None if is_c else lab.component("go_builder"))
    check_bake(args.bake, tools.configurations)
    plan = c_plan(directory, only, tools, args.bake) if is_c else go_plan(directory, only, tools, args.bake)
    check_output(made, plan.inputs)
    if args.dry_run:
        script(shell(plan.recipe, str(made)))
        return 0
    with interruptible(), record.slot(made, os.environ) as slot:
        wanted = digest(plan, tools.stamps, os.environ)
        state, kept = "up to date", None
        if not slot.fresh(wanted, made):
            carry_out(plan, tools, slot, wanted, since, made, args)
            state, kept = "built", str(slot.work) if args.keep_work else None
    report(args, made, state, plan.kind, kept, time.monotonic() - started)
    return 0


def run_inside(args: argparse.Namespace, lab: Lab, component: str, directory: str, made: Path) -> int:
    """Builds in a container from the image of `component`, with this host's sources, settings and build cache. Returns
    the exit code."""
    check_output(made, frozenset())
    cache = record.cache_root(os.environ)
    roots = gopath.gopath(dict(os.environ))
    top = gopath.root_of(directory, roots)
    read = [directory, *([top.directory] if top else []), *(root.directory for root in roots)]
    if not args.dry_run:
        cache.mkdir(parents=True, exist_ok=True)
    places = os.pathsep.join(os.path.dirname(root.directory) for root in roots)
    # The build cache is two directories below XDG_CACHE_HOME.
    settings = {"XDG_CACHE_HOME": str(cache.parent.parent), "GOPATH": places}
    settings.update((name, os.environ[name]) for name in (*child_environment.COMPILERS, *PASSED) if name in os.environ)
    environment = [f"{name}={value}" for name, value in settings.items()]
    return runner.run_verb("build", args, lab, component, read, [str(made.parent), str(cache)], environment)


def absolute(path: Path) -> Path:
    """Returns `path` made absolute. UsageError if it has a control character, since a compiler's messages can't show
    it."""
    if CONTROL.search(str(path)):
        raise UsageError(f"{str(path)!r} has a control character in it; rename it")
    return Path(os.path.abspath(path))


def locate(source: Path) -> tuple[str, str | None]:
    """Returns the directory of the sources, and the file's name if `source` is a file. RumplabError if it is neither a
    directory nor a .go or .c file."""
    if source.is_dir():
        return str(source), None
    if not source.exists():
        raise RumplabError(f"{source}: no such file or directory; name the directory of a program")
    if not source.is_file() or source.suffix not in (".go", cprogram.SUFFIX):
        raise RumplabError(f"{source} is neither a directory nor a .go or .c file; name one of these")
    return str(source.parent), source.name


def chosen_c(directory: str, only: str | None) -> bool:
    """Returns whether it is a C program: `only` is a .c file, or `directory` has .c files and no .go files.
    RumplabError if there are neither."""
    names = [only] if only else os.listdir(directory)
    kinds = {os.path.splitext(name)[1] for name in names}
    if not kinds & {".go", cprogram.SUFFIX}:
        raise RumplabError(f"{directory} has no .go and no .c file; name the directory of a program")
    return ".go" not in kinds


def check_bake(bake: str, known: tuple[str, ...]) -> None:
    """Raises UsageError if `bake` is not in `known`, the configurations of the toolchain."""
    # rumprun-bake itself replaces a dash by an underscore.
    if not BAKE.fullmatch(bake) or (known and bake.replace("-", "_") not in known):
        raise UsageError(f"'{bake}' is no configuration of this toolchain; it has: {', '.join(known) or 'none'}")


def check_output(made: Path, inputs: frozenset[str]) -> None:
    """Raises RumplabError or UsageError if the unikernel can't or mustn't be written to `made`."""
    directory = made.parent
    if not directory.is_dir():
        raise RumplabError(f"{directory} is not a directory; create it or choose another place with -o")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise RumplabError(f"{directory} is not writable; choose another place with -o")
    if made.exists() and any(os.path.samefile(made, path) for path in inputs):
        raise RumplabError(f"{made} is one of the program's sources; choose another name with -o")
    if made.suffix in SOURCES:
        raise UsageError(f"{made} has the name of a source; choose another one with -o")
    if made.exists() and not made.is_file():
        raise RumplabError(f"{made} exists and is not a file; choose another name with -o")


def go_plan(directory: str, only: str | None, tools: Tools, bake: str) -> Plan:
    """Returns the plan for the Go program in `directory`."""
    environment = dict(os.environ)
    program = golang.read(directory, only, tools, environment)
    packages = [
        [package.path, package.directory, [[source.name, source.sha256] for source in package.sources]]
        for package in program.packages
    ]
    linked = {path: record.file_sha256(path) for path in golang.linked_files(program.libraries)}
    sources = [
        os.path.join(package.directory, source.name) for package in program.packages for source in package.sources
    ]
    return Plan(
        kind="go",
        recipe=golang.recipe(program, tools, bake, environment.get("CGO_CFLAGS", "")),
        counted=[packages, linked],
        directories=tuple(package.directory for package in program.packages),
        inputs=frozenset([*sources, *linked]),
    )


def c_plan(directory: str, only: str | None, tools: Tools, bake: str) -> Plan:
    """Returns the plan for the C program in `directory`."""
    program = cprogram.read(directory, only, os.environ)
    words = golang.link_arguments((*program.compiler_flags, *program.linker_flags), directory)
    linked = {path: record.file_sha256(path) for path in golang.linked_files([*words])}
    return Plan(
        kind="c",
        recipe=cprogram.recipe(program, tools, bake),
        counted=[dict(program.sources), linked],
        directories=(directory,),
        inputs=frozenset([*program.sources, *linked]),
    )


def digest(plan: Plan, stamps: tuple[str, ...], environment: Mapping[str, str]) -> str:
    """Returns the SHA-256, in hexadecimal digits, of all inputs that are known before the build."""
    steps = [[step.argv, step.directory, dict(step.environment)] for step in plan.recipe.steps]
    own = [record.SCHEMA, __version__, stamps, steps, dict(plan.recipe.files), dict(plan.recipe.copies)]
    return record.digest([own, plan.counted, settings(environment)])


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of `environment` that change what the compilers make."""
    return {name: environment[name] for name in child_environment.COMPILERS if name in environment}


def carry_out(
    plan: Plan,
    tools: Tools,
    slot: record.Slot,
    wanted: str,
    since: float,
    made: Path,
    args: argparse.Namespace,
) -> None:
    """Builds `made`. After an error, `made` is unchanged: an older one stays.

    `since` is a time before the inputs were hashed for the digest `wanted`.
    """
    # An interrupted build may have left files.
    slot.clear()
    slot.work.mkdir()
    try:
        result = Runner(plan.recipe, slot.work, slot.lock, tools.target.gcc, args.verbose).run()
        noted = slot.work / DEPENDENCIES
        rules = noted.read_text(encoding="utf-8", errors="surrogateescape") if noted.exists() else ""
        outside = [str(slot.work), *tools.trees]
        files = record.read_files(rules, plan.directories, outside, since)
        # If an input has changed since, the compiler may have read another content than the digest has.
        valid = record.complete(rules) and not any(record.changed(path, since) for path in plan.inputs)
        # If this process ends between the two calls, there is no record, and the next command builds again.
        deliver(result, made, slot.forget)
        if valid:
            slot.remember(wanted, files, made)
    finally:
        if args.keep_work:
            print(f"the work directory is {slot.work}; the next build of {made} removes it", file=sys.stderr)
        else:
            slot.clear()


def report(args: argparse.Namespace, made: Path, state: str, kind: str, kept: str | None, seconds: float) -> None:
    if args.json:
        data: dict[str, object] = {"program": str(made), "state": state, "kind": kind}
        data.update(size=made.stat().st_size, sha256=record.file_sha256(str(made)), seconds=round(seconds, 3))
        print(output.as_json({**data, "work": kept}))
        return
    print(f"{made}: up to date" if state == "up to date" else f"{made}: built in {seconds:.1f} s")
