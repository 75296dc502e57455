"""Which tests run where: on Debian testing only whether it starts; the whole of site.yml with ./test --all."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "stable: not for Debian testing")
    config.addinivalue_line("markers", "whole: the whole of site.yml, for ./test --all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what isn't for this run. It isn't skipped: another run of the suite has it."""
    left = {"stable"} if os.environ.get("RUMPLAB_DEBIAN") == "testing" else set()
    left |= set() if os.environ.get("RUMPLAB_TEST_ALL") else {"whole"}
    out = [item for item in items if left & set(item.keywords)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
