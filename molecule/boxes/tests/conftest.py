"""Select the tests of a run: on Debian testing only whether it starts; the whole of site.yml only with --all."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest
from support.box import CHECKOUT, ROOT, Box
from testinfra.host import Host


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "stable: not for Debian testing")
    config.addinivalue_line("markers", "whole: the whole of site.yml, for ./test --all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of other runs. They aren't reported as skipped, since another run of the suite has them."""
    left = {"stable"} if os.environ.get("RUMPLAB_DEBIAN") == "testing" else set()
    left |= set() if os.environ.get("RUMPLAB_TEST_ALL") else {"whole"}
    out = [item for item in items if left & set(item.keywords)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="module")
def box(host: Host) -> Box:
    """Return the container, with a copy of this checkout as after git clone."""
    name = host.backend.get_hostname()
    left = [f"--exclude=./{name}" for name in (".venv", "build", ".cache", ".ansible", ".git")]
    packed = subprocess.run(
        ["tar", "-C", str(ROOT), *left, "--exclude=__pycache__", "-cf", "-", "."],
        capture_output=True,
        timeout=120,
        check=True,
    )
    place = shlex.quote(CHECKOUT)
    into = ["sh", "-c", f"mkdir -p {place} && tar -C {place} --no-same-owner -xf -"]
    subprocess.run(["docker", "exec", "-i", name, *into], input=packed.stdout, timeout=120, check=True)
    return Box(name)
