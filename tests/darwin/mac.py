"""Functions for tests of the scenario `darwin`: recorded calls, plays, and the tool on a simulated Mac."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = ROOT / "molecule" / "darwin"
PREFIX = "/opt/rumplab"
CALLS = "/var/tmp/recorded-calls"
# It sets the platform before any import, because many modules of the standard library read it only once.
ON_DARWIN = 'import sys; sys.platform = "darwin"; from rumplab.cli.main import main; sys.exit(main(sys.argv[1:]))'
VMNET = "vmnet makes one for each machine, which needs root: sudo rumplab run IMAGE --net bridge"


def formulae(role: str) -> set[str]:
    """Return the packages that a role installs on macOS."""
    found = yaml.safe_load((ROOT / "roles" / role / "vars" / "Darwin.yml").read_text("utf-8"))
    return set(found[f"__{role}_packages"])


def calls(host: Host) -> list[list[str]]:
    """Return the recorded calls, each as [user, program, argument...]."""
    return [line.split() for line in host.file(CALLS).content_string.splitlines()]


def installs(host: Host) -> list[set[str]]:
    return [set(words[3:]) for words in calls(host) if words[1:3] == ["brew", "install"]]


def rumplab(host: Host, *arguments: str) -> Any:
    """Run the tool with `sys.platform` set to darwin."""
    words = ["env", f"RUMPLAB_CONFIG={PREFIX}/etc/rumplab.json", f"{PREFIX}/rumplab/bin/python3", "-I", "-c", ON_DARWIN]
    return host.run(f"sudo -n -u alice -- {shlex.join([*words, *arguments])}")


def play(playbook: Path, user: str = "alice", **variables: Any) -> subprocess.CompletedProcess[str]:
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(playbook)]
    command += ["-e", json.dumps(variables)]
    environment = {**os.environ, "ANSIBLE_REMOTE_USER": user}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def shellcheck(script: str) -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "-"], input=script, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
