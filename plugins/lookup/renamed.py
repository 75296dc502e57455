"""Lookup: the value of a variable that has a new name, which the old one still gives for a release."""

from __future__ import annotations

DOCUMENTATION = r"""
name: renamed
short_description: What a variable's old name says, with a warning, or its default
description:
  - For the default of a variable that had another name before. Where somebody still sets the old name, its value is
    returned, and a warning names the new one. Whoever sets the new name never comes here.
  - Every old name that still works is a call of this lookup. It goes, with the old name, after one release.
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
        """Return the one value."""
        old, new, default = terms
        known = variables or {}
        if old not in known:
            return [default]
        display.warning(f"{old} is now {new}: set that. The old name works for one more release.")
        return [self._templar.template(known[old])]
