"""Compare a container's files and packages before an installation and after its removal."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parent / "listing.py"

# Logs, caches and indexes that the package manager, Ansible and the C library write.
LEFT: tuple[str, ...] = (
    r"/var/lib/apt/(lists|periodic|extended_states).*",
    r"/var/cache/(apt|debconf|ldconfig|fontconfig|man)(/.*)?",
    r"/var/lib/dpkg/(status|available|status-old|diversions|statoverride|lock|triggers).*",
    r"/var/lib/dpkg/info(/format)?",
    r"/var/log(/.*)?",
    r"/var/lib/systemd/.*",
    r"/etc/ld\.so\.cache",
    # Backups that the account tools make of the files they change.
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-",
    r"/root/\.ansible(/.*)?",
    r".*/__pycache__(/.*)?",
)

# QEMU's packages of Debian testing install systemd in a container without it, and the removal of systemd leaves the
# files that its maintainer script made. A machine that boots with systemd has these files before.
if os.environ.get("RUMPLAB_DEBIAN") == "testing":
    LEFT += (
        r"/etc/(default/locale|machine-id|mtab|vconsole\.conf)",
        r"/root/\.ssh",
        r"/tmp/\.(ICE|X11|XIM|font)-unix",
        r"/var/(cache|lib)/private",
    )

# Temporary files of an Ansible module and of an apt that were killed. They aren't the lab's, and a reboot removes them.
LEFT_BY_KILLS = (
    r"/tmp/ansible_[\w.]+_payload_\w+(/.*)?",
    r"/tmp/apt-dpkg-install-\w+(/.*)?",
)


def listed(container: str) -> dict[str, Any]:
    """Run listing.py in a container, and return its result: `files` by path, and `packages`."""
    # The script comes on standard input, because a copied file would be in the listing.
    done = subprocess.run(
        ["docker", "exec", "-i", container, "python3", "-B", "-"],
        input=SCRIPT.read_text(),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def changed_files(
    before: dict[str, Any], after: dict[str, Any], left: tuple[str, ...] = LEFT
) -> dict[str, tuple[str | None, str | None]]:
    """Return the files that differ between two listings as path -> (before, after), without those that match `left`."""
    return {
        path: (before["files"].get(path), after["files"].get(path))
        for path in sorted(before["files"].keys() | after["files"].keys())
        if before["files"].get(path) != after["files"].get(path)
        and not any(re.fullmatch(pattern, path) for pattern in left)
    }
