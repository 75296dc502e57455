"""Print all files and packages of a host as JSON. Tests of the uninstallation compare two such listings.

It runs on the host, and needs only Python's standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess

# Files that aren't on the disk: those of the kernel's file systems, of the container engine, and of a tmpfs.
SKIPPED = (
    *("/proc", "/sys", "/dev", "/run"),
    *("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/var/cache/rumplab-built"),
)


def describe(path: str) -> str:
    """Return type, mode, owner and content of one entry as a string; a file's content is its SHA-1."""
    status = os.lstat(path)
    parts = [stat.filemode(status.st_mode), str(status.st_uid), str(status.st_gid)]
    if stat.S_ISLNK(status.st_mode):
        parts.append(os.readlink(path))
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as stream:
            parts.append(hashlib.sha1(stream.read()).hexdigest())
    return " ".join(parts)


def listing() -> dict[str, str]:
    """Return path -> description for every entry of the file system."""
    found = {}
    for directory, names, files in os.walk("/"):
        names[:] = [name for name in names if os.path.join(directory, name) not in SKIPPED]
        for name in names + files:
            path = os.path.join(directory, name)
            if path not in SKIPPED:
                found[path] = describe(path)
    return found


def packages() -> list[str]:
    """Return every package that dpkg lists, with its version and state."""
    query = ["dpkg-query", "-W", "-f", "${Package}:${Architecture} ${Version} ${db:Status-Abbrev}\\n"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()


if __name__ == "__main__":
    print(json.dumps({"files": listing(), "packages": packages()}))
