"""Lookup: what stands for all that a run of everything is decided by, but for the state of the host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lab_inputs
short_description: A hash of the checkout, the variables and the facts that roles decide by
description:
  - Returns one SHA-256 in hex, which two runs have in common if the checkout's files, the host's variables from
    inventory and command line, the facts, and the versions of Ansible and Python are the same. Returns an empty string
    where a variable is looked up somewhere, since nobody can tell then whether the answer will be the same.
options:
  _terms: {description: "The root of the checkout.", required: true}
author: rumplab
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible.release import __version__ as ansible_version

# What roles are made of, and what they bring to hosts.
PARTS = ("site.yml", "playbooks", "roles", "inventory", "src", "examples", "requirements.txt")
# How a run is made, and what it has found so far, decide nothing of what the lab is to be; nor do the packages that
# ./provision itself has brought, which are only recorded.
PASSING = re.compile(
    r"__.*|lab_state|lab_bootstrap_packages|hostvars|vars|omit|environment|groups|group_names|play_hosts"
    r"|artifact_result|module_setup|gather_subset|role_.*|ansible_(check_mode|diff_mode|verbosity|forks|run_tags"
    r"|skip_tags|limit|play.*|loop.*|index_var|search_path|config_file|inventory_sources|parent_role.*|dependent_role.*"
    r"|facts)"
)
# The facts that roles use.
FACTS = (
    *("architecture", "distribution", "distribution_major_version", "distribution_version", "os_family", "pkg_mgr"),
    *("python", "python_version", "system", "user_id"),
)
ELSEWHERE = re.compile(r"\b(lookup|query|q)\s*\(|\bnow\s*\(|\brandom\b")


def files(root: Path) -> Iterator[tuple[str, bytes]]:
    """The files of the parts, sorted, by path and content; without what Python leaves."""
    for part in PARTS:
        start = root / part
        found = [start] if start.is_file() else [path for path in start.rglob("*") if path.is_file()]
        for path in sorted(found):
            if "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path.relative_to(root).as_posix(), path.read_bytes()


def digest_of_files(root: Path) -> str:
    """One hash for all of them."""
    whole = hashlib.sha256()
    for name, content in files(root):
        mode = "x" if os.access(root / name, os.X_OK) else "-"
        whole.update(f"{name}\0{mode}{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()


def deciding(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Those variables that may decide something; templates as they are written."""
    return {name: value for name, value in variables.items() if not PASSING.fullmatch(name)}


def deciding_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Likewise of the facts."""
    environment = facts.get("env") or {}
    return {**{name: facts.get(name) for name in FACTS}, "SUDO_USER": environment.get("SUDO_USER")}


def inputs(root: Path, variables: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The hash, or an empty string."""
    own = deciding(variables)
    text = json.dumps([own, deciding_facts(facts), ansible_version, sys.version], sort_keys=True, default=str)
    if ELSEWHERE.search(json.dumps(own, default=str)):
        return ""
    return hashlib.sha256(f"{digest_of_files(root)}\n{text}".encode()).hexdigest()


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        """Return the one hash."""
        if not os.path.isdir(os.path.join(terms[0], "roles")):
            raise AnsibleError(f"lab_inputs: {terms[0]} is not the root of a checkout: it has no roles")
        own = variables["hostvars"].raw_get(variables["inventory_hostname"])
        return [inputs(Path(terms[0]).resolve(), own, variables["ansible_facts"])]
