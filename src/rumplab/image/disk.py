"""Runs qemu-img on an existing image, and explains its error messages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rumplab.building.explain import ending
from rumplab.errors import RumplabError
from rumplab.host import child_environment
from rumplab.host.answers import parsing, typed
from rumplab.image.step import Step
from rumplab.machine.registry import Machines

INFO_SECONDS = 30
# A step that is slower, in bytes per second, or hangs, is stopped.
SLOWEST = 1024 * 1024
PATIENCE = 60
LOCKED = "Is another process using the image"
FULL = "No space left on device"


def virtual_size(qemu_img: str, image: str, kind: str, machines: Machines) -> int:
    """The size in bytes of the disk in `image`, whose format is `kind`."""
    step = Step((qemu_img, "info", "--output=json", "-f", kind, image))
    said = run(step, Path.cwd(), INFO_SECONDS, image, machines)
    return virtual_size_in(said, image)


def virtual_size_in(said: str, image: str) -> int:
    """The size in bytes in the output of ``qemu-img info --output=json``. RumplabError for unexpected output."""
    with parsing(f"what qemu-img says of {image}"):
        size: int = typed(json.loads(said)["virtual-size"], int)
        if size < 0:
            raise ValueError(f"a size of {size}")
    return size


def run_all(steps: Sequence[Step], work: Path, size: int, image: str, machines: Machines) -> None:
    """Runs `steps` in `work` on `image`, a disk of `size` bytes. RumplabError when one fails."""
    for step in steps:
        run(step, work, PATIENCE + size / SLOWEST, image, machines)


def run(step: Step, work: Path, seconds: float, image: str, machines: Machines) -> str:
    """Runs one command in `work` for at most `seconds` and returns its output. RumplabError when it fails."""
    try:
        done = subprocess.run(
            step.argv,
            cwd=work,
            env=child_environment.of(child_environment.TOOL),
            input=step.stdin.encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RumplabError(
            f"{step.argv[0]} took more than {seconds:.0f} s and was stopped; check the disk with {image}"
        ) from error
    except OSError as error:
        raise RumplabError(f"cannot run {step.argv[0]}: {error.strerror}; check that it is installed") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RumplabError(explain(step, said or ending(done.returncode), work, image, machines))
    return done.stdout.decode(errors="replace")


def explain(step: Step, said: str, work: Path, image: str, machines: Machines) -> str:
    """The error message for a failed command with the error output `said`."""
    if LOCKED in said:
        return in_use(image, machines)
    if FULL in said:
        free = shutil.disk_usage(work).free // (1024 * 1024)
        return f"no space left in {work.parent}, which has {free} MiB free; free some space or choose another directory"
    return f"{step.argv[0]} failed: {said}"


def in_use(image: str, machines: Machines) -> str:
    """The error message for a locked `image`: names the machine that uses it, if it is one of this user's."""
    real = os.path.realpath(image)
    for machine in machines.all():
        if (real, True) in machine.files:
            return (
                f"{image} is in use by machine '{machine.name}' (pid {machine.pid}); stop it with:"
                f" rumplab stop {machine.name}"
            )
    return f"{image} is in use by a process that is not one of your machines; end that first"
