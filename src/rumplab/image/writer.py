"""Executes a recipe: it writes a temporary file in the output's directory and renames it at the end."""

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
from rumplab.host import child_environment, children, locks
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
# A step that writes fewer bytes per second, or hangs, is stopped.
SLOWEST = MIB
PATIENCE = 60
LINES_TOLD = 8
# Seconds to wait for another process that publishes; its two renames take much less.
PUBLISHING = 5.0
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def sidecar(output: Path) -> Path:
    """The path of the image's sidecar: a file that describes the image's content."""
    return output.with_name(output.name + SIDECAR_SUFFIX)


def write_image(
    recipe: Recipe, output: Path, needed: int, describe: Callable[[], dict[str, object]], force: bool = False
) -> None:
    """Writes the image `output` and its sidecar, or neither. `needed` is the disk space in bytes. RumplabError when
    another process has made `output` meanwhile, unless with `force`.

    `describe` returns the sidecar's content. It is called while commands are running.
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
    """Renames the files to `output` and its sidecar. RumplabError when `output` exists, unless with `force`."""
    with alone_in(output.parent):
        if force:
            # Remove the old sidecar first: a process that is killed here must not leave it beside the new image.
            sidecar(output).unlink(missing_ok=True)
            result.rename(output)
        else:
            take_name(result, output)
        description.rename(sidecar(output))


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Excludes other processes that publish in `directory`, so that an image and its sidecar belong together."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Every user who can read the directory can hold its lock. So continue without the lock after PUBLISHING
        # seconds.
        with contextlib.suppress(RumplabError, OSError):
            locks.exclusive(handle, "another stage", str(directory), PUBLISHING)
        yield
    finally:
        os.close(handle)


def take_name(result: Path, output: Path) -> None:
    """Renames `result` to `output` if `output` doesn't exist; of several processes, exactly one succeeds. RumplabError
    for the others."""
    try:
        try:
            os.link(result, output)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # The file system has no hard links, so create an empty file exclusively and replace it.
            os.close(os.open(output, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            result.rename(output)
    except FileExistsError:
        raise RumplabError(
            f"{output} has been made by another process meanwhile; overwrite it with --force or choose another name"
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
    """Runs steps in `work`, for an image that needs `needed` bytes in `directory`."""

    work: Path
    environment: Mapping[str, str]
    directory: Path
    needed: int

    def run(self, step: Step) -> None:
        """Runs one command until it ends. RumplabError with its error output when it fails."""
        with self.running(step) as process:
            self.finish(step, process)

    @contextlib.contextmanager
    def running(self, step: Step) -> Iterator[subprocess.Popen[bytes]]:
        """Starts a command. Kills it if it still runs at the end of the context."""
        with children.running(
            step.argv,
            subprocess.Popen.kill,
            {**child_environment.of(child_environment.TOOL), **self.environment},
            "check that it is installed",
            cwd=self.work,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            yield process

    def finish(self, step: Step, process: subprocess.Popen[bytes]) -> None:
        """Waits for a command that `running` started. RumplabError with its error output when it fails."""
        try:
            _, errors = process.communicate(step.stdin.encode(), timeout=PATIENCE + self.needed / SLOWEST)
        except subprocess.TimeoutExpired as error:
            raise RumplabError(
                f"{step.argv[0]} took more than {error.timeout:.0f} s and was stopped; check the disk with"
                f" {self.directory}"
            ) from error
        said = errors.decode(errors="replace").strip()
        if OUT_OF_SPACE in said:
            raise out_of_space(self.directory, self.needed)
        if process.returncode or (step.quiet and complaints(said)):
            reason = shortened(said, LINES_TOLD) or ending(process.returncode)
            raise RumplabError(f"{step.argv[0]} failed: {reason}\nthe commands: rumplab stage --dry-run …")


def complaints(said: str) -> list[str]:
    """The lines of `said`, except those with a program's name and version only."""
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
        f" free, and 1 MiB in {tempfile.gettempdir()}; free some space or choose another directory with -o"
    )
