"""Lookup: what stands for all that a run of everything is decided by, but for the state of the host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lab_inputs
short_description: A hash of the checkout, the variables and the facts that roles decide by
description:
  - Returns one SHA-256 in hex, which two runs have in common if the checkout's files, the variables (as they are
    written, and those of them that are templates by their values too) and the facts that roles use are the same.
  - Returns an empty string where nobody can tell that, since a variable has no value yet or looks something up other
    than a variable of the environment or a file, and for a run that leaves out tasks (C(--step), C(--start-at-task)).
options:
  _terms: {description: "The root of the checkout; then values that decide too.", required: true}
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

# What roles are made of, and what they bring to hosts.
PARTS = ("site.yml", "playbooks", "roles", "plugins", "inventory", "src", "examples")
# How Ansible goes about a run decides nothing of what the lab is to be; nor do passwords, which shall stand in no hash,
# nor the packages that ./provision itself has brought, which are only recorded.
PASSING = re.compile(
    r"ansible_(facts|verbosity|diff_mode|forks|\w*role_names|\w*pass(word|phrase)?)|role_(names|uuid)|hostvars|vars|omit"
    r"|lab_bootstrap_packages"
)
# The facts that roles use.
FACTS = (
    *("architecture", "distribution", "distribution_major_version", "os_family", "pkg_mgr", "python", "python_version"),
    *("system", "user_id"),
)
TEMPLATE = re.compile(r"\{\{|\{%")
# Lookups that may do more than read on the controller, ask somebody or take their time: not for a hash.
HERE = r"((ansible\.builtin\.)?(env|file)|rumplab\.lab\.renamed)"
ELSEWHERE = re.compile(rf"\b(lookup|query|q)\s*\((?!\s*['\"]{HERE}['\"])")


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
    found = {name: value for name, value in variables.items() if not PASSING.fullmatch(name)}
    # Ansible gives them in any order.
    return {**found, "ansible_skip_tags": sorted(variables.get("ansible_skip_tags", ()))}


def deciding_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Likewise of the facts."""
    environment = facts.get("env") or {}
    return {**{name: facts.get(name) for name in FACTS}, "SUDO_USER": environment.get("SUDO_USER")}


def written(value: Any) -> str:
    """A value as text, the same for the same value."""
    return json.dumps(value, sort_keys=True, default=str)


def templates(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Those of them that have to be evaluated; what begins with __ is the roles' own, out of the checkout's files."""
    return {name: each for name, each in variables.items() if name[:2] != "__" and TEMPLATE.search(written(each))}


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        """Return the one hash, or an empty string."""
        if not os.path.isdir(os.path.join(terms[0], "roles")):
            raise AnsibleError(f"lab_inputs: {terms[0]} is not the root of a checkout: it has no roles")
        own = deciding(variables)
        evaluated = templates(own)
        if any(ELSEWHERE.search(written(value)) for value in evaluated.values()):
            return [""]
        if context.CLIARGS.get("step") or context.CLIARGS.get("start_at_task"):
            return [""]
        try:
            values = {name: str(self._templar.template(value)) for name, value in evaluated.items()}
        except AnsibleError:
            return [""]
        text = written([own, values, deciding_facts(variables["ansible_facts"]), terms[1:]])
        return [hashlib.sha256(f"{digest_of_files(Path(terms[0]).resolve())}\n{text}".encode()).hexdigest()]
