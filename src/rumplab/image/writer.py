"""Carries a recipe out: into a temporary file beside the output, which takes its place at the end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rumplab.building.explain import ending
from rumplab.errors import RumplabError
from rumplab.host import child_environment, locks
from rumplab.host.files import sweep, temporary_directory, temporary_file, work_directory
from rumplab.host.process import interruptible
from rumplab.image import formats
from rumplab.image.layout import MIB
from rumplab.image.recipe import Recipe
from rumplab.image.step import Step
from rumplab.output import own_lines, shortened

SIDECAR_SUFFIX = ".rumplab.json"
VERSION_LINE = re.compile(r"\S+ [0-9]+\.[0-9]+.*\([^)]*\)\s*")
OUT_OF_SPACE = os.strerror(errno.ENOSPC)
# A step that writes slower than that, or hangs, is given up.
SLOWEST = MIB
PATIENCE = 60
LINES_TOLD = 8
# Two renames take much less.
PUBLISHING = 5.0
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def sidecar(output: Path) -> Path:
    """The file beside an image that says what was staged into it."""
    return output.with_name(output.name + SIDECAR_SUFFIX)


def write_image(
    recipe: Recipe, output: Path, needed: int, describe: Callable[[], dict[str, object]], force: bool = False
) -> None:
    """Writes the image `output` and its sidecar, or nothing. `needed` is what it takes on disk, in bytes. RumplabError
    when somebody else has made `output` meanwhile, unless with `force`.

    `describe`, called while commands are running, returns what the sidecar says.
    """
    sweep(output.parent)
    check_space(output.parent, needed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruptible())
        image = stack.enter_context(temporary_file(output.parent))
        description = stack.enter_context(temporary_file(output.parent))
        work = stack.enter_context(work_directory("stage"))
        runner = Runner(work, recipe.environment, output.parent, needed)
        lay_out(recipe, work, image)
        result = image
        if recipe.convert:
            directory = stack.enter_context(temporary_directory(output.parent))
            (work / formats.CONVERTED).symlink_to(directory)
            result = directory / output.name
        loader = stack.enter_context(runner.running(recipe.loader))
        about = json.dumps({"schema": 1, **describe()}, indent=2)
        description.write_text(about + "\n", encoding="utf-8")
        for step in recipe.disk:
            runner.run(step)
        runner.finish(recipe.loader, loader)
        for step in (*recipe.boot, *recipe.convert):
            runner.run(step)
        publish(result, description, output, force)


def publish(result: Path, description: Path, output: Path, force: bool) -> None:
    """Gives the files the names `output` and that of its sidecar. RumplabError when there is an `output`, unless with
    `force`."""
    with alone_in(output.parent):
        if force:
            # Who is killed in between leaves no description beside an image that it doesn't describe.
            sidecar(output).unlink(missing_ok=True)
            result.rename(output)
        else:
            take_name(result, output)
        description.rename(sidecar(output))


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Has others who publish in `directory` wait, so that an image and its description are of one stage."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Everybody who may read the directory can hold its lock, and keeps nobody from staging by that.
        with contextlib.suppress(RumplabError, OSError):
            locks.exclusive(handle, "another stage", str(directory), PUBLISHING)
        yield
    finally:
        os.close(handle)


def take_name(result: Path, output: Path) -> None:
    """Gives the file `result` the name `output`, which one of those who want it at a time gets. RumplabError for the
    others."""
    try:
        try:
            os.link(result, output)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # A file system without hard links: the name is taken by an empty file first.
            os.close(os.open(output, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            result.rename(output)
    except FileExistsError:
        raise RumplabError(
            f"{output} has been made by somebody else meanwhile; overwrite it with --force or choose another name"
            " with -o"
        ) from None


def lay_out(recipe: Recipe, work: Path, image: Path) -> None:
    """Makes the files and links that the recipe's commands expect in `work`."""
    for name, content in recipe.files.items():
        (work / name).write_bytes(content)
    for name, target in {**recipe.links, "image": image}.items():
        (work / name).symlink_to(target)


@dataclass(frozen=True)
class Runner:
    """Where steps run: in `work`, on behalf of an image in `directory` that takes `needed` bytes there."""

    work: Path
    environment: Mapping[str, str]
    directory: Path
    needed: int

    def run(self, step: Step) -> None:
        """Runs one command to its end. RumplabError with what it said when it fails."""
        with self.running(step) as process:
            self.finish(step, process)

    @contextlib.contextmanager
    def running(self, step: Step) -> Iterator[subprocess.Popen[bytes]]:
        """Starts a command, which does not outlive the context."""
        try:
            process = subprocess.Popen(
                step.argv,
                cwd=self.work,
                env={**child_environment.of(child_environment.TOOL), **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise RumplabError(f"cannot run {step.argv[0]}: {error.strerror}") from error
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def finish(self, step: Step, process: subprocess.Popen[bytes]) -> None:
        """Waits for a command that `running` started. RumplabError with what it said when it has failed."""
        try:
            _, errors = process.communicate(step.stdin.encode(), timeout=PATIENCE + self.needed / SLOWEST)
        except subprocess.TimeoutExpired as error:
            raise RumplabError(
                f"{step.argv[0]} took more than {error.timeout:.0f} s and was stopped; is {self.directory}"
                " on a disk that answers?"
            ) from error
        said = errors.decode(errors="replace").strip()
        if OUT_OF_SPACE in said:
            raise out_of_space(self.directory, self.needed)
        if process.returncode or (step.quiet and complaints(said)):
            reason = shortened(said, LINES_TOLD) or ending(process.returncode)
            raise RumplabError(f"{step.argv[0]} failed: {reason}\nthe commands: rumplab stage --dry-run …")


def complaints(said: str) -> list[str]:
    """The lines of `said` that are not just a program's name and version."""
    return [line for line in own_lines(said) if line.strip() and not VERSION_LINE.fullmatch(line)]


def check_space(directory: Path, needed: int) -> None:
    """RumplabError when `directory` has less than `needed` bytes left."""
    status = os.statvfs(directory)
    if status.f_bavail * status.f_frsize < needed:
        raise out_of_space(directory, needed)


def out_of_space(directory: Path, needed: int) -> RumplabError:
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    return RumplabError(
        f"no space left: the image needs {-(-needed // MIB)} MiB in {directory}, which has {free // MIB} MiB"
        f" free, and 1 MiB in {tempfile.gettempdir()}; free some space or choose another place with -o"
    )
