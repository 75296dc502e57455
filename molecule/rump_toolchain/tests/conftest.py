"""Fixtures of the scenario's tests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fixtures.upstream.driving import Lab, Play, in_container

SCENARIO = "rump_toolchain"
GIT = "git://127.0.0.1"


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Return a function that runs the playbook of rows."""
    return Play(tmp_path_factory.mktemp("rows"), SCENARIO)


@pytest.fixture
def lab(host: Any) -> Lab:
    """The container."""
    return Lab(host)


@pytest.fixture(scope="session")
def commits() -> dict[str, str]:
    """The miniature's commits."""
    found: dict[str, str] = json.loads(in_container("cat", "/srv/upstream/pins.json", scenario=SCENARIO))
    return found


@pytest.fixture(scope="session")
def pin(commits: dict[str, str]) -> dict[str, Any]:
    """Return the miniature's pin."""
    elsewhere = {name: f"{GIT}/{name}.git" for name in ("buildrump.sh", "src-netbsd")}
    return {
        "git": f"{GIT}/rumprun.git",
        "commit": commits["commit"],
        "submodules": True,
        "submodule_urls": elsewhere,
    }
