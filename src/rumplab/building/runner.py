"""Executes a recipe in a work directory and copies the unikernel to its output path."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rumplab.building import explain
from rumplab.building.recipe import RESULT, Recipe, Step, command, generated, in_work, origin, quoted
from rumplab.errors import RumplabError
from rumplab.host import child_environment, children
from rumplab.host.files import sweep, temporary_file
from rumplab.output import shortened

STEP_SECONDS = 3600
LINES_TOLD = 40
PATIENCE = 5
# Output of a tool beyond so many characters is dropped.
LARGEST_OUTPUT = 4 << 20
# The file in which GCC records the files that it reads; see GCC's manual, "Environment Variables".
DEPENDENCIES = "dependencies"
ELF_MAGIC = b"\x7fELF"


def lay_out(recipe: Recipe, work: Path) -> None:
    """Makes the recipe's directories, files, copies and links in the empty directory `work`."""
    for name in recipe.directories:
        (work / name).mkdir(parents=True, exist_ok=True)
    for name, content in recipe.files.items():
        (work / name).write_text(content, encoding="utf-8")
    for name, source in recipe.copies.items():
        (work / name).write_bytes(os.fsencode(origin(source)) + Path(source).read_bytes())
    for name, source in recipe.links.items():
        (work / name).symlink_to(source)


@dataclass(frozen=True)
class Runner:
    """Runs the steps of `recipe` in `work`. The steps inherit the open file `lock`, so the lock is held until they end,
    even if this process is killed.

    With `verbose`, each command and its output are printed on standard error at once.
    """

    recipe: Recipe
    work: Path
    lock: int
    gcc: str
    verbose: bool = False

    def run(self) -> Path:
        """Runs all steps and returns the unikernel's path. RumplabError names the step that failed, and why."""
        lay_out(self.recipe, self.work)
        if self.verbose:
            print(f"+ work={shlex.quote(str(self.work))}", file=sys.stderr)
        for step in self.recipe.steps:
            said = self.step(step)
            if said.strip() and step.telling and not self.verbose:
                print(said.rstrip(), file=sys.stderr)
        result = self.work / RESULT
        if not is_elf(result):
            raise RumplabError(
                f"step {self.recipe.steps[-1].name} succeeded, but made no ELF program; provision"
                " rump_toolchain again, or examine the build with --keep-work -v"
            )
        return result

    def step(self, step: Step) -> str:
        """Runs one command until it ends. Returns its output, with the user's paths."""
        argv = [in_work(word, str(self.work)) for word in step.argv]
        if self.verbose:
            print(f"+ cd {quoted(step.directory)} && {command(step)}", file=sys.stderr, flush=True)
        place, environment = in_work(step.directory, str(self.work)), self.environment(step)
        with running(argv, place, environment, self.lock) as process, time_limit(process) as expired:
            said = self.listen(process, place)
            code = process.wait()
        if expired.is_set():
            raise RumplabError(
                f"step {step.name} took more than {STEP_SECONDS} s and was killed; see where it hangs: -v"
            )
        if code:
            raise RumplabError(self.failure(step, code, said))
        return said

    def listen(self, process: subprocess.Popen[bytes], directory: str) -> str:
        """The output of `process`, which runs in `directory`, with the user's paths. Reads until the output ends."""
        lines: list[str] = []
        size = 0
        own = {in_work(theirs, str(self.work)): users for theirs, users in self.recipe.own.items()}
        if directory == str(self.work):
            # In the work directory, a relative name is a generated file, even if the program has a file of that name.
            names: Mapping[str, str] = {name: generated(name) for name in self.recipe.files if "/" not in name}
        else:
            names = next(iter(self.recipe.relative.values()), {})
        for raw in process.stdout or ():
            line = explain.own_words(raw.decode(errors="replace"), directory, own, names)
            if line.startswith("# "):
                names = self.recipe.relative.get(explain.heading(line[2:].strip()), {})
            size += len(line)
            if size <= LARGEST_OUTPUT:
                lines.append(line)
            if self.verbose:
                print(line, end="", file=sys.stderr, flush=True)
        return "".join(lines)

    def failure(self, step: Step, code: int, said: str) -> str:
        """The error message for a step that failed with return code `code` and output `said`."""
        parts = [f"step {step.name} failed ({explain.ending(code)})"]
        if said.strip() and not self.verbose:
            parts = [parts[0] + ":", shortened(said, LINES_TOLD, "; -v shows all")]
        words = explain.remedy(said, self.gcc)
        return "\n".join([*parts, words] if words else parts)

    def environment(self, step: Step) -> dict[str, str]:
        """The step's environment: the allowed variables of the caller, PATH with the toolchain's directories, and the
        step's own variables."""
        settings = {name: in_work(value, str(self.work)) for name, value in step.environment.items()}
        given = child_environment.of(child_environment.BUILD)
        path = os.pathsep.join([*self.recipe.path, given.get("PATH", os.defpath)])
        noted = {"SUNPRO_DEPENDENCIES": str(self.work / DEPENDENCIES)}
        return {**given, "PATH": path, **noted, **settings}


def is_elf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(ELF_MAGIC)) == ELF_MAGIC


@contextlib.contextmanager
def running(
    argv: Sequence[str], directory: str, environment: dict[str, str], lock: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command in its own process group. Ends the whole group at the end of the context."""
    with children.running(
        argv,
        end_group,
        environment,
        "provision it again",
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock,),
    ) as process:
        yield process


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM to the group of `process`, so that tools can clean up, and then SIGKILL to the remaining
    processes."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    # After its leader has ended, a group keeps its id while it has a member.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def time_limit(process: subprocess.Popen[bytes], seconds: float = STEP_SECONDS) -> Iterator[threading.Event]:
    """Kills the group of `process` after `seconds`. Yields an event that is set when this happens."""
    expired = threading.Event()

    def end() -> None:
        expired.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def deliver(result: Path, output: Path, then: Callable[[], None]) -> None:
    """Replaces `output` by a copy of `result`, atomically. Calls `then` just before the replacement."""
    sweep(output.parent)
    with temporary_file(output.parent) as made:
        shutil.copyfile(result, made)
        shutil.copymode(result, made)
        then()
        made.rename(output)
