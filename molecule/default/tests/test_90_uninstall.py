"""Uninstalling removes exactly what was created. Runs last."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import leftovers
from testinfra.host import Host

PLAYBOOKS = Path(__file__).resolve().parents[3] / "playbooks"


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "before.json").read_text())
    return found


@pytest.fixture(scope="module")
def after(host: Host) -> dict[str, Any]:
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(PLAYBOOKS / "uninstall.yml")]
    for wanted in ("changed=[1-9]", "changed=0"):
        run = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        # The second run has nothing to do.
        assert re.search(wanted, run.stdout), run.stdout
    return leftovers.listed(host.backend.get_hostname())


def test_the_packages_are_what_they_were(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert sorted(after["packages"]) == sorted(before["packages"])


def test_no_file_is_left_changed_or_missing(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert leftovers.changed_files(before, after) == {}
