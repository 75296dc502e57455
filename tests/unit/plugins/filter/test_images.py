"""The output of role images: an image's labels, and the image's state in the lab's files."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from plugins.filter import images as filters

GDB: dict[str, Any] = {
    "name": "gdb",
    "version": "13.1",
    "source": "substitute",
    "stamp": "ab" * 32,
    "licence": "GPL-3.0-or-later",
    "paths": {"gdb": "/opt/it's/gdb"},
    "state": "installed",
    "reason": None,
    "installed": "2026-01-01T00:00:00Z",
}
QEMU = {**GDB, "name": "qemu", "stamp": "cd" * 32, "licence": "MIT OR BSD-2-Clause"}


def test_labels_survive_the_dockerfiles_quoting() -> None:
    words = shlex.split(filters.image_labels([GDB, QEMU], "ef" * 32, "/opt/lab"))
    assert words[0] == "LABEL"
    labels = dict(word.split("=", 1) for word in words[1:])
    assert labels["rumplab.component"] == "gdb"
    assert labels["rumplab.stamp"] == GDB["stamp"]
    assert labels["rumplab.inputs"] == "ef" * 32
    assert labels["rumplab.prefix"] == "/opt/lab"
    assert labels["org.opencontainers.image.licenses"] == "GPL-3.0-or-later AND (MIT OR BSD-2-Clause)"
    components = json.loads(labels["rumplab.components"])
    assert [one["name"] for one in components] == ["gdb", "qemu"]
    assert components[0]["paths"] == GDB["paths"]
    # With a time, each build would make a different image.
    assert "installed" not in components[0]


def test_images_are_known_by_each_of_their_tags() -> None:
    labels = {"rumplab.component": "gdb"}
    answer: list[dict[str, Any]] = [
        {"Id": "sha256:1", "RepoTags": ["a:1", "b:2"], "Config": {"Labels": labels}},
        {"Id": "sha256:2", "RepoTags": ["c:3"], "Config": {"Labels": None}},
        {"Id": "sha256:3", "RepoTags": None, "Config": {}},
    ]
    one = {"id": "sha256:1", "labels": labels}
    assert filters.images_by_tag(answer) == {"a:1": one, "b:2": one, "c:3": {"id": "sha256:2", "labels": {}}}


FOUND = {"r/gdb:latest": {"id": "old", "labels": {"rumplab.inputs": "1", "rumplab.stamp": "s"}}}
WAITING = {**GDB, "state": "deferred", "reason": "no route"}


@pytest.mark.parametrize(
    ("host", "found", "unmade", "expected"),
    [
        ({"images_inputs": "1"}, FOUND, {}, ("installed", "s", "old", None)),
        (
            {"images_inputs": "2", "images_id": "new", "images_components": [GDB]},
            FOUND,
            {},
            ("installed", GDB["stamp"], "new", None),
        ),
        ({"images_inputs": "2", "images_components": [WAITING]}, FOUND, {}, ("outdated", "s", "old", "gdb: no route")),
        ({"images_inputs": "2", "images_components": [WAITING]}, {}, {}, ("deferred", None, None, "gdb: no route")),
        (
            {"images_inputs": "2", "images_base_release": "11"},
            {},
            {"rumplab/debian:11": "no\nmirror"},
            ("deferred", None, None, "the base image rumplab/debian:11 can't be made: no mirror"),
        ),
        ({"images_inputs": "2"}, FOUND, {}, ("outdated", "s", "old", "the last run failed")),
    ],
)
def test_the_state_of_an_image(
    host: dict[str, Any], found: dict[str, Any], unmade: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    one = filters.image_report(["gdb"], "r", {"image-gdb": host}, found, unmade)["gdb"]
    assert one["image"] == "r/gdb:latest"
    assert (one["state"], one["stamp"], one["id"], one["reason"]) == expected
    line = filters.image_lines([one])[0]
    assert line.startswith(f"r/gdb:latest: {expected[0]}")
    assert expected[3] is None or line.endswith(expected[3])
