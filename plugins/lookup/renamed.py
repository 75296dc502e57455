"""Lookup: return the value of a renamed variable, which a user may still set by its old name for one release."""

from __future__ import annotations

DOCUMENTATION = r"""
name: renamed
short_description: Return the value that a variable's old name has, with a warning, or the default
description:
  - Serves as the default of a variable that had another name before. If the user sets the old name, the lookup returns
    its value and warns with the new name. If the user sets the new name, Ansible doesn't evaluate the default.
  - Every old name that still works is a call of this lookup. Remove the call, and the old name, after one release.
options:
  _terms: {description: "The old name, the new name, and the default.", required: true}
author: rumplab
"""

from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display

display = Display()


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[Any]:
        """Return a list with the value."""
        old, new, default = terms
        known = variables or {}
        if old not in known:
            return [default]
        display.warning(f"{old} is now called {new}; set {new}. The old name works for one more release.")
        return [self._templar.template(known[old])]
