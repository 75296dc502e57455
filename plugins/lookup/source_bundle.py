"""Lookup: return a directory of this repository as a source for role artifact."""

from __future__ import annotations

DOCUMENTATION = r"""
name: source_bundle
short_description: Return a directory of the controller as a reproducible archive
description:
  - Returns, for each directory, a dictionary with C(bundle) (its name), C(sha256) and C(data), a base64 tar archive.
    The same files always give the same archive; owner and time don't count.
options:
  _terms: {description: "Directories.", required: true}
  data: {description: "Whether to return the archive besides its hash.", type: bool, default: true}
"""

import base64
import fnmatch
import hashlib
import io
import lzma
import os
import tarfile
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

# Files that a build or an editor leaves in a source directory.
LEFT_OUT = ("__pycache__", "*.pyc", "*.o", "*.bin", "*.elf", "*~", ".*")


def source_files(directory: str) -> list[str]:
    """Return the sorted paths of the files below `directory`, relative to it, without those that match LEFT_OUT."""
    found = []
    for here, directories, names in os.walk(directory):
        directories[:] = [d for d in directories if not any(fnmatch.fnmatch(d, pattern) for pattern in LEFT_OUT)]
        for name in names:
            if not any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT):
                found.append(os.path.relpath(os.path.join(here, name), directory))
    return sorted(found)


def make_bundle(directory: str, data: bool = True) -> dict[str, str]:
    """Return the bundle of a directory: its base name, and its tar archive's sha256 and data (xz in base64).

    `data=False` leaves the data out, so that a run with nothing to do needn't compress it.
    """
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in source_files(directory):
            path = os.path.join(directory, name)
            member = tarfile.TarInfo(name)
            member.size = os.path.getsize(path)
            member.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            with open(path, "rb") as stream:
                archive.addfile(member, stream)
    content = raw.getvalue()
    bundle = {
        "bundle": os.path.basename(os.path.abspath(directory)),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    if data:
        bundle["data"] = base64.b64encode(lzma.compress(content, preset=1)).decode()
    return bundle


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        """Return a bundle for each directory."""
        for term in terms:
            if not os.path.isdir(term):
                raise AnsibleError(f"source_bundle: {term} is not a directory")
        return [make_bundle(term, kwargs.get("data", True)) for term in terms]
