"""Fetch files of a Debian archive with the host's apt, which has its own mirrors, proxy and credentials.

The mirror that the host uses may have a pinned package even if the host runs another release: all releases share an
archive's pool. Only the host's apt configuration names its mirrors.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

from .command import run_quiet
from .errors import Unreachable

# apt's downloader, which uses apt's whole configuration. It isn't on PATH.
HELPER = "/usr/lib/apt/apt-helper"
SCHEME = "apt:"
# What apt prints for each index that it would fetch: 'URI' NAME SIZE HASH.
INDEX = re.compile(r"^'((?!cdrom:)[a-z+]+:[^']*?)/+dists/", re.MULTILINE)
# The lowest average speed of a mirror, in bytes per second; it sets the time limit of a download.
SLOWEST = 50_000
PACKAGE = b"!<arch>\n"


def archives(printed: str) -> list[str]:
    """Return the archives in apt's list of indexes, in apt's order."""
    return list(dict.fromkeys(INDEX.findall(printed)))


def origins(path: str) -> list[str]:
    """Return the URLs (with SCHEME) at which the host's apt may find the file `path`; [] on a host without apt."""
    if shutil.which("apt-get") is None or not os.access(HELPER, os.X_OK):
        return []
    printed = run_quiet(["apt-get", "update", "--print-uris"], timeout=60).stdout
    return [f"{SCHEME}{archive}/{path}" for archive in archives(printed)]


def download_argv(uri: str, path: str, timeout: float) -> list[str]:
    """Return the command that downloads a URI to a file."""
    limits = [f"Acquire::{scheme}::Timeout={timeout:.0f}" for scheme in ("http", "https")]
    options = [word for limit in [*limits, "Acquire::Retries=1"] for word in ("-o", limit)]
    return [HELPER, *options, "download-file", uri, path]


def download(origin: str, pin: Mapping[str, Any], path: str, timeout: float) -> None:
    """Download a file to `path`, without checking its hash. Every failure is Unreachable.

    A mirror of the host may lack the file, and apt reports that in different ways.
    """
    uri = origin[len(SCHEME) :]
    size = int(pin.get("size") or 0)
    got = run_quiet(download_argv(uri, path, timeout), timeout=2 * timeout + size / SLOWEST if size else 900)
    if got.returncode or not os.path.isfile(path):
        said = [line for line in (got.stderr + got.stdout).splitlines() if line.startswith(("E:", "Err:", "timed out"))]
        raise Unreachable(f"{uri}: {said[0].removeprefix('E:').strip() if said else 'apt-helper downloaded nothing'}")
    if os.path.islink(path):
        # apt links to a file: archive instead of copying from it.
        target = os.path.realpath(path)
        os.unlink(path)
        shutil.copyfile(target, path)
    if path.endswith(".deb.part"):
        with open(path, "rb") as stream:
            if stream.read(len(PACKAGE)) != PACKAGE:
                raise Unreachable(f"{uri}: the server sends something else than a package")
