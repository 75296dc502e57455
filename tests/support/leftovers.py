"""What an uninstallation leaves: a container's files and packages, before and after."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parent / "listing.py"

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

# What a module of Ansible's and an apt leave that were killed is theirs; a start of the host takes it away.
LEFT_BY_KILLS = (
    r"/tmp/ansible_[\w.]+_payload_\w+(/.*)?",
    r"/tmp/apt-dpkg-install-\w+(/.*)?",
)


def listed(container: str) -> dict[str, Any]:
    """Return what `listing.py` prints in a container: its `files` by path, and its `packages`."""
    # Over standard input: a copied file would be in the listing.
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
    """Return the files that differ between two listings, each with what it was and is, but for those of `left`."""
    return {
        path: (before["files"].get(path), after["files"].get(path))
        for path in sorted(before["files"].keys() | after["files"].keys())
        if before["files"].get(path) != after["files"].get(path)
        and not any(re.fullmatch(pattern, path) for pattern in left)
    }
