"""Fixtures of the scenario's tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures.upstream.driving import Lab, Play, Rows, container, docker, in_container


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Return a function that runs the playbook."""
    return Play(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def lab(host: Any) -> Lab:
    """The container."""
    return Lab(host)


@pytest.fixture(scope="session")
def upstream() -> dict[str, Any]:
    """Return the hashes and commits of the fixture in the container."""
    found: dict[str, Any] = json.loads(in_container("cat", "/srv/upstream/pins.json"))
    return found


@pytest.fixture
def no_network() -> Iterator[None]:
    """Disconnect the container from every network except its loopback interface."""
    networks = docker("inspect", "-f", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}", container())
    for network in networks.split():
        docker("network", "disconnect", network, container())
    yield
    for network in networks.split():
        docker("network", "connect", network, container())


@pytest.fixture(scope="session")
def rows(upstream: dict[str, Any]) -> Rows:
    """Makes rows."""
    return Rows(upstream)
