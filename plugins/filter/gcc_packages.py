"""Filter: return the pins of a Debian release's packages in the form that role artifact takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable


def gcc_parts(row: Mapping[str, Any], hosts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the pin of a file for each of the row's packages.

    `row` has `packages` (size and sha256 by path in the archive) and `date`. `hosts` are URLs that contain @file@ and
    @date@; role artifact tries them in order.
    """
    return [
        {"urls": [host.replace("@file@", path).replace("@date@", row["date"]) for host in hosts], **pin}
        for path, pin in row["packages"].items()
    ]


class FilterModule:
    """The filters of role gcc."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"gcc_parts": gcc_parts}
