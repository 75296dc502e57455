"""Filters: make the pins of a NetBSD release's files from the hashes that the lab and its user supply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

# A line of a release's signed list of hashes.
LINE = re.compile(r"^(SHA512|SHA256) \(([^)\s]+)\) = ([0-9a-f]+)[ \t\r]*$", re.MULTILINE)
ALGORITHMS = {128: "sha512", 64: "sha256"}


def algorithm(digest: str) -> str:
    """Return which hash a hex digest is, by its length."""
    name = ALGORITHMS.get(len(digest))
    if name is None or re.search("[^0-9a-f]", digest):
        raise AnsibleFilterError(f"'{digest}' is neither a sha512 nor a sha256 in hex")
    return name


def within_release(path: str) -> str:
    """Return a path without the release's directory, if the path begins with it."""
    _, _, rest = path.partition("NetBSD-")
    release, _, inside = rest.partition("/")
    return inside if release and inside else path.removeprefix("./")


def netbsd_hash_list(text: str) -> dict[str, str]:
    """Return the hashes in a release's list, by path in the release; the sha512 of a file that has several."""
    found: dict[str, str] = {}
    for _, listed, digest in LINE.findall(text):
        path = within_release(listed)
        if len(digest) >= len(found.get(path, "")):
            found[path] = digest
    if not found:
        raise AnsibleFilterError("the release's list of hashes has no line of the form 'SHA512 (PATH) = HASH'")
    return found


def netbsd_hashes(sources: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the hashes that several sources state, by path in the release; AnsibleFilterError if two differ."""
    known: dict[str, str] = {}
    for source in sources:
        for path, given in source.items():
            digest = str(given).lower()
            if algorithm(digest) == algorithm(known.get(path, digest)) and known.get(path, digest) != digest:
                raise AnsibleFilterError(
                    f"{path}: one source states the hash {known[path]}, another {digest}; find out which one is wrong"
                )
            known[path] = max(digest, known.get(path, ""), key=len)
    return known


def netbsd_part(
    path: str, release: str, hosts: Sequence[str], hashes: Mapping[str, str], **where: Any
) -> dict[str, Any]:
    """Return the pin of a release's file for role artifact; without a hash if none is known.

    `hosts` are URLs that contain @release@ and @file@. The file's name in the cache and in a mirror contains the
    release.
    """
    part: dict[str, Any] = {
        "urls": [host.replace("@release@", release).replace("@file@", path) for host in hosts],
        "file": f"NetBSD-{release}-{path.replace('/', '-')}",
        **where,
    }
    if path in hashes:
        part[algorithm(hashes[path])] = hashes[path]
    return part


class FilterModule:
    """The filters of role netbsd_guest."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "netbsd_hash_list": netbsd_hash_list,
            "netbsd_hashes": netbsd_hashes,
            "netbsd_part": netbsd_part,
        }
