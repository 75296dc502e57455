"""Talking to the Docker engine by its command, every call bounded."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from rumplab.errors import RumplabError
from rumplab.host import child_environment
from rumplab.host.answers import MALFORMED, parsing, typed

DOCKER = "docker"
ANSWER_SECONDS = 15
STOP_SECONDS = 5
PAUSE = 0.1
INSPECT = '{"id": {{json .Id}}, "labels": {{json .Config.Labels}}}'


@dataclass(frozen=True)
class Image:
    """An image of the engine's: its identity and its labels."""

    name: str
    identity: str
    labels: dict[str, str]

    @property
    def prefix(self) -> str:
        """Where the lab stands in it."""
        return self.labels.get("rumplab.prefix", "/opt/rumplab")

    def version(self, component: str) -> str | None:
        """The version of `component` in the image; None when the labels tell none."""
        try:
            for one in json.loads(self.labels["rumplab.components"]):
                if one["name"] == component:
                    return str(one["version"])
        except MALFORMED:
            pass
        return None

    def path(self, component: str, logical: str) -> str:
        """The path that `component` has for `logical` in the image. RumplabError when the labels tell none."""
        try:
            for one in json.loads(self.labels["rumplab.components"]):
                if one["name"] == component:
                    return str(typed(one["paths"][logical], str))
        except MALFORMED:
            # As where it says nothing.
            pass
        raise RumplabError(f"image {self.name} doesn't say where its {logical} is; remove it, and make it again")


def ask(*words: str, seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    """Runs ``docker WORDS`` and returns what it said. RumplabError where there is no such command or no answer."""
    try:
        return subprocess.run(
            [DOCKER, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            env=child_environment.of(child_environment.DOCKER),
            # A terminal's Ctrl-C is this process's to deal with.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise RumplabError(
            "there is no docker command on PATH; install a Docker engine, or leave --container out"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RumplabError(f"the Docker engine did not answer within {seconds:.0f} s; is it running?") from error


def image(name: str) -> Image | None:
    """The engine's image `name`; None when it has none. RumplabError when it doesn't answer."""
    said = ask("image", "inspect", "--format", INSPECT, name)
    if said.returncode == 0:
        return image_in(said.stdout, name)
    if "no such image" in said.stderr.lower():
        return None
    raise RumplabError(
        f"the Docker engine can't be asked: {said.stderr.strip()}; start it, and see that this account may use it"
    )


def image_in(said: str, name: str) -> Image:
    """The image in the engine's answer to INSPECT. RumplabError where that is something else."""
    with parsing(f"what the Docker engine says of {name}"):
        data: dict[str, Any] = json.loads(said)
        labels = typed(data["labels"], dict, type(None)) or {}
        return Image(name, typed(data["id"], str), {key: typed(value, str) for key, value in labels.items()})


def is_rootless() -> bool:
    """Whether the engine is its user's own, in whose containers root stands for that user."""
    said = ask("info", "--format", "{{json .SecurityOptions}}")
    return "name=rootless" in said.stdout


def program() -> str:
    """The path of the docker command. RumplabError when there is none."""
    found = shutil.which(DOCKER)
    if found is None:
        raise RumplabError("there is no docker command on PATH; install a Docker engine, or leave --container out")
    return found


def stop(name: str, client: subprocess.Popen[bytes]) -> None:
    """Ends the container `name` and with it `client`, the ``docker run`` that started it.

    The container may not exist yet, or exist and not have been started: it is over only when `client` is.
    """
    deadline = time.monotonic() + 2 * STOP_SECONDS
    while client.poll() is None and time.monotonic() < deadline:
        ask("stop", "--time", str(STOP_SECONDS), name, seconds=3 * STOP_SECONDS)
        _wait(client, PAUSE)
    ask("rm", "--force", name)
    if client.poll() is None:
        client.kill()
        client.wait()


def _wait(client: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(seconds)
