"""Uninstalling takes away exactly what was created; runs last, since nothing is left after it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

HERE = Path(__file__).resolve().parent.parent
PLAYBOOKS = HERE.parent.parent / "playbooks"

# What a package manager, Ansible and the C library write for themselves: logs, caches and their indexes.
LEFT: tuple[str, ...] = (
    r"/var/lib/apt/(lists|periodic|extended_states).*",
    r"/var/cache/(apt|debconf|ldconfig|fontconfig|man)(/.*)?",
    r"/var/lib/dpkg/(status|available|status-old|diversions|statoverride|lock|triggers).*",
    r"/var/lib/dpkg/info(/format)?",
    r"/var/log(/.*)?",
    r"/var/lib/systemd/.*",
    r"/etc/ld\.so\.cache",
    # Backups that the account tools keep of the files they changed.
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-",
    r"/root/\.ansible(/.*)?",
    r".*/__pycache__(/.*)?",
)

# QEMU's packages of Debian testing bring systemd to a container that has none, and its removal leaves what its script
# has made. On a machine that starts by systemd all of this is there before.
if os.environ.get("RUMPLAB_DEBIAN") == "testing":
    LEFT += (
        r"/etc/(default/locale|machine-id|mtab|vconsole\.conf)",
        r"/root/\.ssh",
        r"/tmp/\.(ICE|X11|XIM|font)-unix",
        r"/var/(cache|lib)/private",
    )


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
        # The second time there is nothing left to do.
        assert re.search(wanted, run.stdout), run.stdout
    script = (HERE / "listing.py").read_text()
    # Over standard input: a copied file would be in the listing.
    listed = subprocess.run(
        ["docker", "exec", "-i", host.backend.get_hostname(), "python3", "-B", "-"],
        input=script,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found: dict[str, Any] = json.loads(listed.stdout)
    return found


def matters(path: str) -> bool:
    return not any(re.fullmatch(pattern, path) for pattern in LEFT)


def test_the_packages_are_what_they_were(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert sorted(after["packages"]) == sorted(before["packages"])


def test_no_file_is_left_changed_or_missing(before: dict[str, Any], after: dict[str, Any]) -> None:
    different = {
        path: (before["files"].get(path), after["files"].get(path))
        for path in sorted(before["files"].keys() | after["files"].keys())
        if before["files"].get(path) != after["files"].get(path) and matters(path)
    }
    assert different == {}
