"""A whole run after one that found nothing to do: it skips the roles, unless its inputs or the state differ."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from testinfra.host import Host

SITE = Path(__file__).resolve().parents[3] / "site.yml"
RECORD = "/opt/rumplab/var/settled.json"
DESCRIPTOR = "/opt/rumplab/etc/components.d/qemu.json"
# Text in the output of a run that doesn't skip the roles.
LOOKS = "TASK [qemu : "
pytestmark = pytest.mark.skipif(
    os.environ.get("RUMPLAB_DEBIAN", "12") != "12" and os.environ.get("RUMPLAB_TEST_ALL") != "1",
    reason="the same on Debian 12; for ./test --all",
)


def site(*options: str) -> subprocess.CompletedProcess[str]:
    """Run site.yml on the scenario's host, as its converge.yml does."""
    told = ["-i", os.environ["MOLECULE_INVENTORY_FILE"], "-e", "rumplab_built_cache=/var/cache/rumplab-built"]
    command = ["ansible-playbook", str(SITE), *told, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def settle() -> None:
    """Run site.yml until a run skips the roles because nothing is left to do."""
    # The first run may have something to do, the second finds and records that there is nothing, the third skips.
    for _ in range(3):
        run = site()
        assert run.returncode == 0, run.stdout + run.stderr
        if LOOKS not in run.stdout:
            break
    assert LOOKS not in run.stdout, run.stdout
    assert re.search(r"changed=0 .*failed=0", run.stdout), run.stdout


def test_a_run_that_leaves_early_still_says_what_there_is() -> None:
    settle()
    run = site()
    assert LOOKS not in run.stdout
    for said in ("COMPONENT", "gdb", "qemu", "verified: yes", "Python: /usr/bin/python3"):
        assert said in run.stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--check"],
        ["--tags", "qemu"],
        ["-e", "bridge_name=another"],
        ["-e", "rumplab_strict=true"],
        ["-e", "rumplab_retry=true"],
    ],
    ids=" ".join,
)
def test_a_run_that_is_another_looks_at_everything(options: list[str]) -> None:
    settle()
    run = site(*options)
    assert LOOKS in run.stdout
    # If upstreams can't be reached, a strict run fails.
    assert run.returncode == 0 or "rumplab_strict" in run.stdout + run.stderr


def test_a_run_that_has_to_look_each_time_leaves_no_memory(host: Host) -> None:
    settle()
    host.run_test(f"rm {RECORD}")
    run = site("-e", "rumplab_verify=true")
    assert run.returncode == 0, run.stdout
    assert LOOKS in run.stdout
    assert not host.file(RECORD).exists


def test_parts_of_a_run_of_everything_leave_no_memory(host: Host) -> None:
    host.run_test(f"rm -f {RECORD}")
    parts = [str(SITE.parent / "playbooks" / name) for name in ("lab.yml", "verify.yml")]
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], *parts]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stdout
    assert not host.file(RECORD).exists


def test_verifying_names_a_changed_file_and_its_remedy(host: Host) -> None:
    verify = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"]]
    verify.append(str(SITE.parent / "playbooks" / "verify.yml"))
    host.run_test("echo > /opt/rumplab/pcihello/added")
    try:
        run = subprocess.run(verify, capture_output=True, text=True, timeout=900, check=False)
    finally:
        host.run_test("rm /opt/rumplab/pcihello/added")
    said = run.stdout + run.stderr
    assert run.returncode == 2, said
    assert "pcihello: added: added; ./provision --tags pcihello -e rumplab_verify=true" in said


def test_what_is_lost_is_noticed_and_made_anew(host: Host) -> None:
    settle()
    host.run_test(f"rm {DESCRIPTOR}")
    run = site()
    assert run.returncode == 0, run.stdout
    assert LOOKS in run.stdout
    assert host.file(DESCRIPTOR).exists
