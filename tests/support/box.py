"""A container that stands for a developer's machine: it has a checkout, and runs shell scripts in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = "/srv/a lab"
CACHE = "-e rumplab_built_cache=/var/cache/rumplab-built"
# The pip settings that say where packages are. A container can't read files and directories of this machine.
PIP = re.compile(r"^(?:\w+|:env:)\.(index-url|extra-index-url|trusted-host|proxy)='([^']*)'$", re.MULTILINE)


def pip_settings() -> dict[str, str]:
    """Return environment variables that make pip fetch from the same index as this machine's pip."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout
    found = {
        f"PIP_{name.upper().replace('-', '_')}": " ".join(v for v in value.split() if not v.startswith(("file:", "/")))
        for name, value in PIP.findall(listed)
    }
    return {name: value for name, value in found.items() if value}


class Box:
    """A container that runs shell scripts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = {
            **pip_settings(),
            "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
            "ANSIBLE_NOCOLOR": "1",
            "RUMPLAB_CACHE": CACHE,
        }

    def run(
        self, script: str, user: str = "root", limit: float = 600, /, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script with `sh -eu` in the checkout, for at most `limit` seconds; stdout has standard error too."""
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


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    """Return `changed=N failed=N` of a playbook run's recap. Raise AssertionError with the output if it failed."""
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    found = re.findall(r"^localhost .*?(changed=\d+) .*?(failed=\d+)", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return " ".join(found[-1])
