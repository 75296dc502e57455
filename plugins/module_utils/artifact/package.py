"""Fetch a declared substitute: an upstream's source from the distribution's signed package archive."""

from __future__ import annotations

import glob
import os
import re
import shutil

from .command import run_quiet
from .errors import Broken, Unreachable
from .request import Substitute


def upstream_version(version: str) -> str:
    """Return the upstream part of a Debian version: `1:13.1+dfsg-3` -> `13.1+dfsg` (deb-version(7))."""
    return re.sub(r"-[^-]*$", "", version.split(":", 1)[-1])


def fetch_apt_source(substitute: Substitute, directory: str) -> tuple[str, str, str]:
    """Download the package and unpack it into `directory`, without root and without installing it.

    Returns (path of the tarball, upstream version, origin for messages). apt checks the archive's signature. Raises
    Unreachable if apt can't download it, Broken if the package isn't as declared.
    """
    name = substitute["apt_source"]
    if shutil.which("apt-get") is None:
        raise Unreachable(f"package {name}: this host has no apt")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    got = run_quiet(["apt-get", "-q", "download", name], cwd=directory, timeout=900)
    packages = glob.glob(os.path.join(glob.escape(directory), "*.deb"))
    if got.returncode or len(packages) != 1:
        said = (got.stderr or got.stdout).strip().splitlines()
        raise Unreachable(f"package {name}: {said[-1] if said else 'apt-get downloaded nothing'}")
    unpacked = os.path.join(directory, "unpacked")
    opened = run_quiet(["dpkg-deb", "-x", packages[0], unpacked], timeout=300)
    if opened.returncode:
        raise Broken(f"package {name}: {opened.stderr.strip()}")
    members = glob.glob(os.path.join(glob.escape(unpacked), substitute["member"]))
    if len(members) != 1:
        raise Broken(f"package {name}: {substitute['member']} matches {len(members)} files in it, expected one")
    version = run_quiet(["dpkg-deb", "-f", packages[0], "Version"]).stdout.strip()
    return members[0], upstream_version(version), f"package {name} {version}"
