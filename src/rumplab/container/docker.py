"""Calls the Docker engine with the docker command. Every call has a time limit."""

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
    """An image in the engine: its name, its id and its labels."""

    name: str
    identity: str
    labels: dict[str, str]

    @property
    def prefix(self) -> str:
        """The lab's prefix in the image."""
        return self.labels.get("rumplab.prefix", "/opt/rumplab")

    def version(self, component: str) -> str | None:
        """The version of `component` in the image; None when the labels don't tell it."""
        try:
            for one in json.loads(self.labels["rumplab.components"]):
                if one["name"] == component:
                    return str(one["version"])
        except MALFORMED:
            pass
        return None

    def path(self, component: str, logical: str) -> str:
        """The path `logical` of `component` in the image. RumplabError when the labels don't tell it."""
        try:
            for one in json.loads(self.labels["rumplab.components"]):
                if one["name"] == component:
                    return str(typed(one["paths"][logical], str))
        except MALFORMED:
            # Invalid labels are treated as missing ones.
            pass
        raise RumplabError(
            f"image {self.name} has no label with the path of its {logical}; remove it, then make it again"
        )


def ask(*words: str, seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    """Runs ``docker WORDS`` and returns its status and output. RumplabError when there is no docker command, or no
    answer within `seconds`."""
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
            # In its own session, docker doesn't receive the terminal's Ctrl-C; this process handles it.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise RumplabError(
            "there is no docker command on PATH; install a Docker engine, or omit --container"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RumplabError(f"the Docker engine did not answer within {seconds:.0f} s; is it running?") from error


def image(name: str) -> Image | None:
    """The engine's image `name`; None when there is none. RumplabError when the engine doesn't answer."""
    said = ask("image", "inspect", "--format", INSPECT, name)
    if said.returncode == 0:
        return image_in(said.stdout, name)
    if "no such image" in said.stderr.lower():
        return None
    raise RumplabError(
        f"the Docker engine can't be used: {said.stderr.strip()}; start it, and check that this account may use it"
    )


def image_in(said: str, name: str) -> Image:
    """The image in the engine's answer to INSPECT. RumplabError for an unexpected answer."""
    with parsing(f"what the Docker engine says of {name}"):
        data: dict[str, Any] = json.loads(said)
        labels = typed(data["labels"], dict, type(None)) or {}
        return Image(name, typed(data["id"], str), {key: typed(value, str) for key, value in labels.items()})


def is_rootless() -> bool:
    """Whether the engine is rootless. In its containers, root is the host's user who runs the engine."""
    said = ask("info", "--format", "{{json .SecurityOptions}}")
    return "name=rootless" in said.stdout


def program() -> str:
    """The path of the docker command. RumplabError when there is none."""
    found = shutil.which(DOCKER)
    if found is None:
        raise RumplabError("there is no docker command on PATH; install a Docker engine, or omit --container")
    return found


def stop(name: str, client: subprocess.Popen[bytes]) -> None:
    """Stops the container `name`, and ends `client`, the ``docker run`` that started it.

    The container may not exist yet, or may not be started yet, so the stop is repeated until `client` ends.
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
