"""Lookup: return a hash of all inputs of a whole run, except the state of the host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lab_inputs
short_description: Return a hash of the checkout, the variables and the facts that roles use
description:
  - Returns one SHA-256 in hex. Two runs have the same one if the checkout's files, the variables and the facts that
    roles use are the same. A variable counts as it is written; a template also counts by its value.
  - Returns an empty string if a variable has no value yet, if a variable looks up anything but an environment variable
    or a file, and for a run that leaves out tasks (C(--step), C(--start-at-task)).
options:
  _terms: {description: "The root of the checkout, then further values to hash.", required: true}
author: rumplab
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

# The parts of the checkout that roles consist of, or install on hosts.
PARTS = ("site.yml", "playbooks", "roles", "plugins", "inventory", "src", "examples")
# Variables that don't count: those that control how Ansible runs; passwords, which must not be part of a hash; and the
# packages that ./provision has installed, which the run only records.
IGNORED = re.compile(
    r"ansible_(facts|verbosity|diff_mode|forks|\w*role_names|\w*pass(word|phrase)?)|role_(names|uuid)|hostvars|vars|omit"
    r"|lab_bootstrap_packages"
)
# The facts that roles use.
FACTS = (
    *("architecture", "distribution", "distribution_major_version", "os_family", "pkg_mgr", "python", "python_version"),
    *("system", "user_id"),
)
TEMPLATE = re.compile(r"\{\{|\{%")
# This lookup evaluates templates for the hash. Lookups other than these may change something, ask the user, or be slow.
SAFE_LOOKUP = r"((ansible\.builtin\.)?(env|file)|rumplab\.lab\.renamed)"
OTHER_LOOKUP = re.compile(rf"\b(lookup|query|q)\s*\((?!\s*['\"]{SAFE_LOOKUP}['\"])")


def files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the files in PARTS, sorted, without compiled Python."""
    for part in PARTS:
        start = root / part
        found = [start] if start.is_file() else [path for path in start.rglob("*") if path.is_file()]
        for path in sorted(found):
            if "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path.relative_to(root).as_posix(), path.read_bytes()


def digest_of_files(root: Path) -> str:
    """Return one hash of these files' paths, contents and executable bits."""
    whole = hashlib.sha256()
    for name, content in files(root):
        mode = "x" if os.access(root / name, os.X_OK) else "-"
        whole.update(f"{name}\0{mode}{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()


def deciding(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that count, templates as they are written."""
    found = {name: value for name, value in variables.items() if not IGNORED.fullmatch(name)}
    # Ansible passes the tags in no fixed order.
    return {**found, "ansible_skip_tags": sorted(variables.get("ansible_skip_tags", ()))}


def deciding_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that count."""
    environment = facts.get("env") or {}
    return {**{name: facts.get(name) for name in FACTS}, "SUDO_USER": environment.get("SUDO_USER")}


def written(value: Any) -> str:
    """Return a value as text; equal values give equal text."""
    return json.dumps(value, sort_keys=True, default=str)


def templates(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that must be evaluated. Those that begin with __ need not: roles set them, in PARTS."""
    return {name: each for name, each in variables.items() if name[:2] != "__" and TEMPLATE.search(written(each))}


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        """Return a list with the hash or an empty string."""
        if not os.path.isdir(os.path.join(terms[0], "roles")):
            raise AnsibleError(f"lab_inputs: {terms[0]} is not the root of a checkout; name the directory with roles/")
        own = deciding(variables)
        evaluated = templates(own)
        if any(OTHER_LOOKUP.search(written(value)) for value in evaluated.values()):
            return [""]
        if context.CLIARGS.get("step") or context.CLIARGS.get("start_at_task"):
            return [""]
        try:
            values = {name: str(self._templar.template(value)) for name, value in evaluated.items()}
        except AnsibleError:
            return [""]
        text = written([own, values, deciding_facts(variables["ansible_facts"]), terms[1:]])
        return [hashlib.sha256(f"{digest_of_files(Path(terms[0]).resolve())}\n{text}".encode()).hexdigest()]
