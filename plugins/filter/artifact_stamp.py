"""Filter: the stamp that names an installed tree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Callable

# What makes a pin the pin it is. Where a file comes from doesn't: moving a URL must not rebuild anything.
IDENTITY = ("sha512", "sha256", "sha1", "commit", "submodules", "apt_source", "member")
PLACE = ("into", "unpack")
EMPTY: Mapping[str, str] = MappingProxyType({})


def canonical(value: Any) -> bytes:
    """Return JSON with sorted keys, without blanks, in UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()


def identity(pin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes the pin the pin it is; of a source of several files, that of each and where it goes."""
    own: dict[str, Any] = {key: pin[key] for key in IDENTITY if pin.get(key)}
    if pin.get("parts"):
        own["parts"] = [{**identity(part), **{key: part[key] for key in PLACE if key in part}} for part in pin["parts"]]
    return own


def artifact_stamp(
    recipe: Mapping[str, Any], pin: Mapping[str, Any], needs: Sequence[str] = (), wanted: Mapping[str, str] = EMPTY
) -> str:
    """Return the sha256, in hex, of the canonical JSON of a recipe (edits, build, files, platform) and a pin.

    The stamps of the artefacts that the recipe uses, out of those `wanted`, are part of it; of a recipe that uses none
    nothing is said, so that it keeps its stamp.
    """
    used = {"needs": {name: wanted[name] for name in needs}} if needs else {}
    return hashlib.sha256(canonical({"pin": identity(pin), "recipe": {**recipe, **used}})).hexdigest()


class FilterModule:
    """The filters of role artifact."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"artifact_stamp": artifact_stamp}
