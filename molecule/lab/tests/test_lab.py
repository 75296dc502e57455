"""Role lab: its result, the settings that it refuses, and uninstalling."""

from __future__ import annotations

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

HERE = Path(__file__).resolve().parent.parent
PLAYBOOKS = HERE.parent.parent / "playbooks"
PREFIX = "/opt/lab ü x"


def play(playbook: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the scenario's host with these extra variables."""
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    command = ["ansible-playbook", "-i", inventory, str(playbook), "-e", json.dumps(variables)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def row(**variables: Any) -> subprocess.CompletedProcess[str]:
    return play(HERE / "row.yml", **variables)


def said(run: subprocess.CompletedProcess[str]) -> str:
    """Return what a run printed, its line breaks and indentation folded."""
    return re.sub(r"\s+", " ", run.stdout + run.stderr)


def test_the_tool_runs_at_a_prefix_with_blanks(host: Host) -> None:
    run = host.run("runuser -u rumplab -- rumplab status --json")
    assert run.rc == 0, run.stderr
    assert [row["name"] for row in json.loads(run.stdout)["components"]] == ["rumplab"]


def test_the_description_names_the_prefix(host: Host) -> None:
    description = json.loads(host.file(f"{PREFIX}/etc/rumplab.json").content.decode())
    assert description["prefix"] == PREFIX
    assert description["user"] == "rumplab"


def test_every_user_may_record_machines_and_nobody_else_s_are_touched(host: Host) -> None:
    assert not host.file(f"{PREFIX}/var/machines").exists


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"rumplab_prefix": "relative/path"}, "must be an absolute path"),
        ({"rumplab_prefix": "/opt/../etc"}, "must be an absolute path"),
        ({"rumplab_prefix": "/opt/a$b"}, "must be an absolute path"),
        ({"rumplab_prefix": "/"}, "must be an absolute path"),
        ({"rumplab_prefix": "/usr/share"}, "holds files that aren't rumplab's"),
        ({"rumplab_prefix": "/proc/rumplab"}, "/proc/rumplab"),
        ({"rumplab_user": "root"}, "Builds don't run as root"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(variables: dict[str, str], message: str) -> None:
    run = row(**variables)
    assert run.returncode != 0
    assert message in said(run)


def test_python_3_8_is_refused_with_the_remedy(host: Host) -> None:
    """The host's interpreter reports version 3.8; apart from that, it is the real one."""
    host.run_test("mkdir -p /opt/old")
    host.run_test(
        "printf '%s\\n' '#!/bin/sh' 'PYTHONPATH=/opt/old exec /usr/bin/python3 \"$@\"' >/opt/old/python3.8"
        " && chmod +x /opt/old/python3.8"
    )
    script = (
        "import sys, platform, collections; "
        "T = collections.namedtuple('T', 'major minor micro releaselevel serial'); "
        "sys.version_info = T(3, 8, 20, 'final', 0); platform.python_version = lambda: '3.8.20'"
    )
    host.run_test("echo %s >/opt/old/sitecustomize.py", script)
    run = row(ansible_python_interpreter="/opt/old/python3.8", rumplab_prefix="/opt/never")
    assert run.returncode != 0
    assert "needs Python 3.9 or later" in said(run)
    assert "ansible_python_interpreter" in said(run)
    assert not host.file("/opt/never").exists


def test_a_read_only_prefix_is_refused_and_nothing_is_left(host: Host) -> None:
    run = row(rumplab_prefix="/sys/rumplab")
    assert run.returncode != 0
    assert "/sys/rumplab" in said(run)


def test_a_launcher_of_somebody_else_is_not_overwritten(host: Host) -> None:
    host.run_test("mkdir -p /opt/host/bin && echo theirs >/opt/host/bin/rumplab")
    run = row(rumplab_prefix="/opt/second", lab_host_directory="/opt/host")
    assert run.returncode != 0
    assert "/opt/host/bin/rumplab exists and isn't rumplab's" in said(run)
    assert host.file("/opt/host/bin/rumplab").content_string == "theirs\n"


def test_two_runs_at_once_both_end_well(host: Host) -> None:
    with ThreadPoolExecutor(2) as pool:
        variables = {"rumplab_prefix": "/opt/twice", "lab_host_directory": "/opt/twice-host"}
        runs = list(pool.map(lambda _: row(**variables), range(2)))
    assert [run.returncode for run in runs] == [0, 0], runs[0].stdout + runs[1].stdout
    assert "failed=0" in runs[0].stdout
    assert host.run("/opt/twice-host/bin/rumplab status").rc == 0


def test_a_lost_link_comes_back(host: Host) -> None:
    link = "/usr/local/share/zsh/site-functions/_rumplab"
    host.run_test(f"rm {link}")
    assert row(rumplab_prefix=PREFIX).returncode == 0
    assert host.file(link).is_symlink


def test_packages_out_of_reach_defer_their_component_and_the_run_goes_on(host: Host) -> None:
    name = host.backend.get_hostname()
    descriptor = f"{PREFIX}/etc/components.d/qemu.json"
    subprocess.run(["docker", "network", "disconnect", "bridge", name], check=True, timeout=60)
    try:
        run = play(HERE / "component.yml", rumplab_prefix=PREFIX)
        assert run.returncode == 0, run.stdout
        status = host.run("runuser -u rumplab -- rumplab status")
        strict = play(HERE / "component.yml", rumplab_prefix=PREFIX, rumplab_strict=True)
    finally:
        subprocess.run(["docker", "network", "connect", "bridge", name], check=True, timeout=60)
    assert json.loads(host.file(descriptor).content.decode())["state"] == "deferred"
    assert "to try again: ./provision --tags qemu" in status.stdout
    assert strict.returncode != 0
    assert "packages: qemu-system-x86, qemu-utils" in said(strict)


def test_uninstall_keeps_what_others_need_and_takes_the_rest(host: Host) -> None:
    variables = {"rumplab_prefix": PREFIX}
    assert play(HERE / "packages.yml", **variables).returncode == 0
    recorded = json.loads(host.file(f"{PREFIX}/var/manifest.json").content.decode())["entries"]
    assert {"kind": "package", "manager": "apt", "name": "bc"} in recorded
    # The user installs a package that needs one of the lab's packages.
    assert host.run("apt-get install -y --no-install-recommends nettle-dev").rc == 0
    run = play(PLAYBOOKS / "uninstall.yml", **variables)
    assert run.returncode == 0, run.stdout
    assert "libgmp-dev" in run.stdout
    assert host.package("libgmp-dev").is_installed
    assert host.package("nettle-dev").is_installed
    assert not host.package("bc").is_installed
    assert not host.file(PREFIX).exists
    assert not host.file("/usr/local/bin/rumplab").exists
