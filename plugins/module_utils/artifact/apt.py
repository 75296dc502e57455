"""Files of a Debian archive by way of the host's own apt: its mirrors, its proxy, its credentials.

A package that is pinned may stand on the mirror that the host already uses, be the host of the same release or not,
since the pool of an archive is shared by all of them. Which mirrors those are, only the host knows.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

from .command import run_quiet
from .errors import Unreachable

# apt's own downloader, which reads its whole configuration. It isn't on PATH.
HELPER = "/usr/lib/apt/apt-helper"
SCHEME = "apt:"
# What apt prints of each index that it would fetch: 'URI' NAME SIZE HASH.
INDEX = re.compile(r"^'((?!cdrom:)[a-z+]+:[^']*?)/+dists/", re.MULTILINE)
# Bytes a second that a mirror has to manage at least, all in all.
SLOWEST = 50_000
PACKAGE = b"!<arch>\n"


def archives(printed: str) -> list[str]:
    """Return the archives that apt's list of indexes is about, in apt's order."""
    return list(dict.fromkeys(INDEX.findall(printed)))


def origins(path: str) -> list[str]:
    """Return where the host's apt may find the file `path` of an archive; none on a host without apt."""
    if shutil.which("apt-get") is None or not os.access(HELPER, os.X_OK):
        return []
    printed = run_quiet(["apt-get", "update", "--print-uris"], timeout=60).stdout
    return [f"{SCHEME}{archive}/{path}" for archive in archives(printed)]


def download_argv(uri: str, path: str, timeout: float) -> list[str]:
    """Return the command that brings a URI to a file."""
    limits = [f"Acquire::{scheme}::Timeout={timeout:.0f}" for scheme in ("http", "https")]
    options = [word for limit in [*limits, "Acquire::Retries=1"] for word in ("-o", limit)]
    return [HELPER, *options, "download-file", uri, path]


def download(origin: str, pin: Mapping[str, Any], path: str, timeout: float) -> None:
    """Bring a file to `path`, unchecked; Unreachable, whatever the reason is that apt gives.

    Any of the host's mirrors may lack the file, and each says so in its own way.
    """
    uri = origin[len(SCHEME) :]
    size = int(pin.get("size") or 0)
    got = run_quiet(download_argv(uri, path, timeout), timeout=2 * timeout + size / SLOWEST if size else 900)
    if got.returncode or not os.path.isfile(path):
        said = [line for line in (got.stderr + got.stdout).splitlines() if line.startswith(("E:", "Err:", "timed out"))]
        raise Unreachable(f"{uri}: {said[0].removeprefix('E:').strip() if said else 'apt-helper gave nothing'}")
    if os.path.islink(path):
        # An archive in a directory of the host isn't copied by apt.
        target = os.path.realpath(path)
        os.unlink(path)
        shutil.copyfile(target, path)
    if path.endswith(".deb.part"):
        with open(path, "rb") as stream:
            if stream.read(len(PACKAGE)) != PACKAGE:
                raise Unreachable(f"{uri}: what comes isn't a package")
