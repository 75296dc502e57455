"""Lookup: a Python package of the controller, as files that role artifact adds to a tree."""

from __future__ import annotations

DOCUMENTATION = r"""
name: controller_package
short_description: The sources of a pure Python package that the controller has
description:
  - Returns a list of dictionaries with C(path), below C(into), and C(content), sorted by path, for role artifact's
    C(artifact_files). Compiled extensions are left out; the package must do without.
  - What the environment that ./provision made has is what its lock file names, with a hash, whichever Ansible runs.
    Only where there is none, the running Ansible's own environment serves.
options:
  _terms: {description: "One package, by the name it is imported by.", required: true}
  distribution: {description: "The name it is distributed by, whose licence comes along.", required: true}
  into: {description: "The directory of the tree that packages are imported from.", required: true}
"""

import importlib.machinery
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

LICENCES = ("LICENSE", "LICENCE", "COPYING")


CHECKOUT = Path(__file__).resolve().parents[2]


def places(checkout: Path = CHECKOUT) -> list[str]:
    """Where packages are looked for: what ./provision made stands first, so that another Ansible takes the same."""
    return [*(str(path) for path in sorted(checkout.glob(".venv/lib/python3*/site-packages"))), *sys.path]


def source_files(package: str, path: list[str]) -> dict[str, str]:
    """The package's modules: path relative to the directory that holds the package, and content."""
    found = importlib.machinery.PathFinder.find_spec(package, path)
    if found is None or found.origin is None:
        raise AnsibleError(f"controller_package: the controller has no Python package {package}")
    top = Path(found.origin).parent
    return {str(each.relative_to(top.parent)): each.read_text("utf-8") for each in top.rglob("*.py")}


def licence(package: str, distribution: str, path: list[str]) -> dict[str, str]:
    """The licence that the distribution brings, if it does, to stand in the package."""
    found = next(iter(importlib.metadata.distributions(name=distribution, path=path)), None)
    files = (found.files if found else None) or []
    texts = [Path(str(file.locate())).read_text("utf-8") for file in files if file.name in LICENCES]
    return {f"{package}/LICENSE": texts[0]} if texts else {}


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        """Return one dictionary a file."""
        self.set_options(var_options=variables, direct=kwargs)
        into = self.get_option("into").rstrip("/")
        path = places()
        files = {**source_files(terms[0], path), **licence(terms[0], self.get_option("distribution"), path)}
        return [{"path": f"{into}/{path}", "content": files[path]} for path in sorted(files)]
