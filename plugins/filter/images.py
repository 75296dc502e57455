"""Filters of role images: the labels of an image, and the report of all images that the lab gets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

Component = Mapping[str, Any]
# The keys of a component's descriptor that an image's labels hold.
KEPT = ("name", "version", "source", "stamp", "licence", "paths")


def image_labels(components: Sequence[Component], inputs: str, prefix: str) -> str:
    """Return the Dockerfile instruction that labels an image; the image is made for the first component.

    `prefix` is the lab's prefix in the image. A single-quoted word of a Dockerfile can't contain a single quote, so
    each one becomes a JSON escape.
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
    """Return the id and labels of each image in the output of ``docker image inspect``, by tag."""
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
    """Return the entry of each image in ``etc/images.json``; docs/roles/images.md describes the file.

    The images' names begin with `repository`. `hosts` has the variables of the inventory hosts that represent images,
    by host; `found` has the images that the engine had before the run, by tag; `unmade` has the reason why a base image
    couldn't be made, by base.
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
        reason = f"the base image {base} can't be made: {' '.join(unmade[base].split())}"
    else:
        reason = "the last run failed"
    # An older image stays in use, as an older tree does.
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
    """Return a line for each image: its name, its state, and the reason if it isn't the wanted one."""
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
