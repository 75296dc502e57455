"""A box: the scenario's container, with a copy of this checkout, and pip's settings of the machine that runs this."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
CHECKOUT = "/srv/a lab"
CACHE = "-e rumplab_built_cache=/var/cache/rumplab-built"
# What of pip's settings says where packages are. Files and directories of this machine aren't there in a container.
PIP = re.compile(r"^(?:\w+|:env:)\.(index-url|extra-index-url|trusted-host|proxy)='([^']*)'$", re.MULTILINE)


def pip_settings() -> dict[str, str]:
    """Environment variables for pip that make it fetch from where this machine's pip fetches."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout
    found = {
        f"PIP_{name.upper().replace('-', '_')}": " ".join(v for v in value.split() if not v.startswith(("file:", "/")))
        for name, value in PIP.findall(listed)
    }
    return {name: value for name, value in found.items() if value}


class Box:
    """Where shell scripts are run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = {
            **pip_settings(),
            "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
            "ANSIBLE_NOCOLOR": "1",
            "RUMPLAB_CACHE": CACHE,
        }

    def run(self, script: str, user: str = "root", limit: float = 600, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a script with `sh -eu` in the checkout; its standard error comes with its output."""
        settings = [word for item in {**self.settings, **env}.items() for word in ("-e", "=".join(item))]
        argv = ["docker", "exec", "-i", "-u", user, "-w", CHECKOUT, *settings, self.name, "sh", "-eu"]
        return subprocess.run(
            argv,
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )


@pytest.fixture(scope="module")
def box(host: Host) -> Box:
    """The container, with a copy of this checkout as somebody has it who has just cloned it."""
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
