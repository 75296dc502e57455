"""Build a source with a recipe: run its commands in a clean environment, with a log and a time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .command import run_logged
from .errors import Broken

CCACHE_WRAPPERS = "/usr/lib/ccache"
TAIL_LINES = 15


def fill(argument: str, places: Mapping[str, str]) -> str:
    """Return `argument` with `@source@`, `@build@`, `@dest@`, `@jobs@` and the names of needed trees replaced."""
    for name, value in places.items():
        argument = argument.replace(f"@{name}@", value)
    return argument


def build_environment(recipe: Mapping[str, Any], places: Mapping[str, str], cache: str) -> dict[str, str]:
    """Return the whole environment of a build; of the caller's environment it has only PATH."""
    path = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    if os.path.isdir(CCACHE_WRAPPERS):
        path = f"{CCACHE_WRAPPERS}:{path}"
    environment = {
        "PATH": path,
        "HOME": places["build"],
        "TMPDIR": places["tmp"],
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": "1",
        "CCACHE_DIR": os.path.join(cache, "ccache"),
    }
    own = recipe.get("environment") or {}
    return {**environment, **{key: fill(str(value), places) for key, value in own.items()}}


def shown(argv: Sequence[str]) -> str:
    """Return a command as messages show it. For `sh -c SCRIPT NAME …`, NAME and its arguments replace the script."""
    script = len(argv) > 3 and argv[1] == "-c"
    return " ".join([argv[0], *argv[3:]] if script else argv)


def log_tail(path: str, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log; bytes that aren't UTF-8 are replaced."""
    with open(path, "rb") as stream:
        stream.seek(max(os.path.getsize(path) - 8192, 0))
        return "\n".join(stream.read().decode("utf-8", "replace").splitlines()[-lines:])


def require_space(directory: str, mebibytes: int) -> None:
    """Raise Broken unless the directory's file system has that many MiB free."""
    free = shutil.disk_usage(directory).free >> 20
    if free < mebibytes:
        raise Broken(
            f"no space left: the build needs about {mebibytes} MiB in {directory}, which has {free} MiB free; "
            "make room, or choose another rumplab_prefix"
        )


def run_recipe(recipe: Mapping[str, Any], places: Mapping[str, str], cache: str, log_path: str, timeout: float) -> None:
    """Run the recipe's commands in order; if one fails, Broken has the command, the log's path and its last lines.

    `places` has `source`, `build`, `dest`, `tmp` (directories), `jobs`, and the needed trees by name. A command is
    `{argv: […], in: source | build}`; `timeout` is the limit for all commands together, in seconds.
    """
    environment = build_environment(recipe, places, cache)
    deadline = time.monotonic() + timeout
    with open(log_path, "wb") as log:
        for command in recipe.get("commands") or []:
            argv: Sequence[str] = [fill(str(argument), places) for argument in command["argv"]]
            log.write(f"$ {' '.join(argv)}\n".encode())
            log.flush()
            try:
                status = run_logged(
                    argv, places[command.get("in", "build")], environment, log, max(deadline - time.monotonic(), 1)
                )
            except subprocess.TimeoutExpired:
                raise Broken(f"the build took longer than {timeout:.0f} s and was ended: {argv[0]}", log_path) from None
            except FileNotFoundError as error:
                raise Broken(f"the build needs '{argv[0]}', which this host lacks; install it", log_path) from error
            if status:
                log.flush()
                said = log_tail(log_path)
                # On a full disk, the log may lack the message, so the free space counts too.
                full = "No space left on device" in said or shutil.disk_usage(places["build"]).free < 1 << 20
                raise Broken(
                    ("no space left on the device while building. " if full else "")
                    + f"'{shown(argv)}' failed with status {status}; the log is {log_path}, and ends:\n{said}",
                    log_path,
                )
