"""Filter: compute the stamp of an installed tree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Callable

# The keys of a pin that identify its content. URLs aren't among them: a changed URL must not cause a rebuild.
IDENTITY = ("sha512", "sha256", "sha1", "commit", "submodules", "apt_source", "member")
PLACE = ("into", "unpack")
EMPTY: Mapping[str, str] = MappingProxyType({})


def canonical(value: Any) -> bytes:
    """Return `value` as JSON in UTF-8, with sorted keys and without white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()


def identity(pin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that identify a pin's content; for a source of several files, those of each and its place."""
    own: dict[str, Any] = {key: pin[key] for key in IDENTITY if pin.get(key)}
    if pin.get("parts"):
        own["parts"] = [{**identity(part), **{key: part[key] for key in PLACE if key in part}} for part in pin["parts"]]
    return own


def artifact_stamp(
    recipe: Mapping[str, Any], pin: Mapping[str, Any], needs: Sequence[str] = (), wanted: Mapping[str, str] = EMPTY
) -> str:
    """Return the sha256, in hex, of the canonical JSON of a recipe (edits, build, files, platform) and a pin.

    `needs` names the artefacts that the recipe uses; their stamps, from `wanted`, are part of the JSON. Without `needs`
    the key is left out, so that recipes from before this key keep their stamps.
    """
    used = {"needs": {name: wanted[name] for name in needs}} if needs else {}
    return hashlib.sha256(canonical({"pin": identity(pin), "recipe": {**recipe, **used}})).hexdigest()


class FilterModule:
    """The filters of role artifact."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"artifact_stamp": artifact_stamp}
