"""Lookup: return a Python package of the controller as files that role artifact adds to a tree."""

from __future__ import annotations

DOCUMENTATION = r"""
name: controller_package
short_description: Return the sources of a pure Python package that the controller has
description:
  - Returns a list of dictionaries with C(path), below C(into), and C(content), sorted by path, for role artifact's
    C(artifact_files). Leaves compiled extensions out; the package must work without them.
  - Takes the package from the environment that ./provision made, which holds what the lock file pins, whichever Ansible
    runs. Takes it from the running Ansible's environment if there is no other.
options:
  _terms: {description: "One package, by the name that Python imports.", required: true}
  distribution: {description: "The package's name on the index; the lookup adds its licence.", required: true}
  into: {description: "The directory of the tree from which Python imports packages.", required: true}
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
    """Return the directories to search for packages. The environment of ./provision comes first, so that another
    Ansible takes the same package.
    """
    return [*(str(path) for path in sorted(checkout.glob(".venv/lib/python3*/site-packages"))), *sys.path]


def source_files(package: str, path: list[str]) -> dict[str, str]:
    """Return the content of the package's modules, by path relative to the directory that holds the package."""
    found = importlib.machinery.PathFinder.find_spec(package, path)
    if found is None or found.origin is None:
        raise AnsibleError(
            f"controller_package: the controller has no Python package {package}; run Ansible by ./provision"
        )
    top = Path(found.origin).parent
    return {str(each.relative_to(top.parent)): each.read_text("utf-8") for each in top.rglob("*.py")}


def licence(package: str, distribution: str, path: list[str]) -> dict[str, str]:
    """Return {path in the package: text} of the distribution's licence, {} if it has none."""
    found = next(iter(importlib.metadata.distributions(name=distribution, path=path)), None)
    files = (found.files if found else None) or []
    texts = [Path(str(file.locate())).read_text("utf-8") for file in files if file.name in LICENCES]
    return {f"{package}/LICENSE": texts[0]} if texts else {}


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        """Return a dictionary for each file."""
        self.set_options(var_options=variables, direct=kwargs)
        into = self.get_option("into").rstrip("/")
        path = places()
        files = {**source_files(terms[0], path), **licence(terms[0], self.get_option("distribution"), path)}
        return [{"path": f"{into}/{path}", "content": files[path]} for path in sorted(files)]
