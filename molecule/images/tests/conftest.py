"""Fixtures for the tests of the builder images."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
Play = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def play() -> Play:
    """Return a function that runs a playbook on the scenario's inventory, with extra variables."""

    def run(playbook: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
        argv = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(playbook)]
        return subprocess.run(
            [*argv, "-e", json.dumps(variables)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.fixture(scope="session")
def described() -> Callable[[Host], dict[str, dict[str, Any]]]:
    """Return a function that reads the lab's etc/images.json."""

    def read(host: Host) -> dict[str, dict[str, Any]]:
        content = host.file("/var/tmp/rumplab-images/lab/etc/images.json").content_string
        images: dict[str, dict[str, Any]] = json.loads(content)["images"]
        return images

    return read
