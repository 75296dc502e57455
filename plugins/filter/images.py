"""Filters of role images: what an image's labels say, and what the lab is told of the images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

Component = Mapping[str, Any]
# What of a component's descriptor goes along with the image.
KEPT = ("name", "version", "source", "stamp", "licence", "paths")


def image_labels(components: Sequence[Component], inputs: str, prefix: str) -> str:
    """Return the Dockerfile instruction that labels an image; the first component is the one it is for.

    `prefix` is where the lab stands in it. A single-quoted word of that format holds anything but a single quote, so
    one is written as JSON's escape.
    """
    said = [{key: component[key] for key in KEPT} for component in components]
    licences = sorted({str(component["licence"]) for component in components})
    labels = {
        "rumplab.component": components[0]["name"],
        "rumplab.stamp": components[0]["stamp"],
        "rumplab.inputs": inputs,
        "rumplab.prefix": prefix,
        "rumplab.components": json.dumps(said, sort_keys=True).replace("'", "\\u0027"),
        "org.opencontainers.image.licenses": " AND ".join(
            f"({licence})" if " " in licence and len(licences) > 1 else licence for licence in licences
        ),
    }
    return "LABEL " + " ".join(f"{name}='{value}'" for name, value in labels.items())


def images_by_tag(answer: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return identity and labels of the images in docker's answer to ``image inspect``, by tag."""
    return {
        tag: {"id": one["Id"], "labels": one["Config"].get("Labels") or {}}
        for one in answer
        for tag in one["RepoTags"] or ()
    }


def image_report(
    names: Iterable[str],
    repository: str,
    hosts: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
    unmade: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Return what ``etc/images.json`` says of each image; docs/roles/images.md describes it.

    `repository` is what their names begin with, `hosts` are the variables of the hosts that stand for images, by host;
    `found` is what the engine had before, by tag, `unmade` why a base can't be had, by base.
    """
    return {name: _one(f"{repository}/{name}:latest", hosts[f"image-{name}"], found, unmade) for name in names}


def _one(
    tag: str, host: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], unmade: Mapping[str, str]
) -> dict[str, Any]:
    components = host.get("images_components") or []
    labels = (found.get(tag) or {}).get("labels") or {}
    base = f"rumplab/debian:{host.get('images_base_release')}"
    if host.get("images_id"):
        return _installed(tag, str(components[0]["stamp"]), str(host["images_id"]))
    if labels.get("rumplab.inputs") and labels["rumplab.inputs"] == host.get("images_inputs"):
        return _installed(tag, labels["rumplab.stamp"], str(found[tag]["id"]))
    waiting = [one for one in components if one["state"] != "installed"]
    if waiting:
        reason = "; ".join(f"{one['name']}: {one['reason']}" for one in waiting)
    elif base in unmade:
        reason = f"{base} can't be made: {' '.join(unmade[base].split())}"
    else:
        reason = "the last run failed"
    # An older image goes on serving, as an older tree does.
    return {
        "image": tag,
        "state": "outdated" if labels else "deferred",
        "stamp": labels.get("rumplab.stamp"),
        "id": (found.get(tag) or {}).get("id"),
        "reason": reason,
    }


def _installed(tag: str, stamp: str, identity: str) -> dict[str, Any]:
    return {"image": tag, "state": "installed", "stamp": stamp, "id": identity, "reason": None}


def image_lines(images: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each image: its name, its state, and why it isn't what was wanted."""
    return [": ".join(filter(None, (one["image"], one["state"], one["reason"]))) for one in images]


class FilterModule:
    """The filters of role images."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "image_labels": image_labels,
            "image_lines": image_lines,
            "image_report": image_report,
            "images_by_tag": images_by_tag,
        }
