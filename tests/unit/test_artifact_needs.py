"""Artefacts of role artifact that are built with others: by path, by stamp, and deferred along with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import OTHER, STAMP, Upstreams, opener, plugin, request

from roles.artifact.module_utils.rumplab_artifact.pathway import provide

pytest_plugins = ["fixtures.upstream.served"]
stamp = plugin("filter_plugins/artifact_stamp.py").artifact_stamp

# Takes what the other one's program prints for its own.
BUILD = {
    "root": "user",
    "environment": {"TOOL": "@tool@/bin/hello"},
    "commands": [{"argv": ["sh", "-c", 'mkdir "$1/user" && "$TOOL" >"$1/user/said"', "sh", "@dest@"], "in": "build"}],
}


def tool(prefix: Path, upstreams: Upstreams, **more: Any) -> dict[str, Any]:
    settings = {"source": upstreams.pin(), "name": "tool", "stamps": {"upstream": OTHER}, **more}
    return request(prefix, **settings)


def user(prefix: Path, upstreams: Upstreams, **more: Any) -> dict[str, Any]:
    return request(
        prefix,
        upstreams.pin(),
        **{"name": "user", "build": BUILD, "paths": {"said": "said"}, "needs": {"tool": OTHER}, **more},
    )


def test_the_others_tree_is_at_hand_by_a_path_without_blanks(upstreams: Upstreams, tmp_path: Path) -> None:
    prefix = tmp_path / "a lab"
    assert provide(tool(prefix, upstreams), opener)["state"] == "installed"
    answer = provide(user(prefix, upstreams), opener)
    assert answer["state"] == "installed", answer
    assert (prefix / "user/said").read_text() == "good morning\n"
    # What took its path away with the work directory was a link.
    assert (prefix / "tool/bin/hello").exists()


def test_without_the_other_it_is_deferred_and_nobody_is_asked(upstreams: Upstreams, tmp_path: Path) -> None:
    gone = {**upstreams.pin(), "urls": [upstreams.http.url("404/hello-1.0.tar")]}
    assert provide(tool(tmp_path, upstreams, source=gone), opener)["state"] == "deferred"
    before = len(upstreams.http.requests)
    answer = provide(user(tmp_path, upstreams, blocked="packages make: no archive"), opener)
    assert answer["state"] == "deferred"
    assert "it is built with tool, which can't be had" in answer["reason"] and "HTTP 404" in answer["reason"]
    assert len(upstreams.http.requests) == before
    assert os.listdir(tmp_path / "work") == []


def test_being_deferred_again_in_other_words_is_no_change(upstreams: Upstreams, tmp_path: Path) -> None:
    first = provide(user(tmp_path, upstreams, needs={}, blocked="no name resolution"), opener)
    second = provide(user(tmp_path, upstreams, needs={}, blocked="the name is unknown"), opener)
    assert (first["changed"], second["changed"]) == (True, False)
    assert "the name is unknown" in (tmp_path / "etc/components.d/user.json").read_text()


def test_an_older_tree_of_the_other_does_not_do(upstreams: Upstreams, tmp_path: Path) -> None:
    provide(tool(tmp_path, upstreams), opener)
    answer = provide(user(tmp_path, upstreams, needs={"tool": STAMP}), opener)
    assert (answer["state"], "isn't in the store" in answer["reason"]) == ("deferred", True)


def test_a_strict_run_fails(upstreams: Upstreams, tmp_path: Path) -> None:
    answer = provide(user(tmp_path, upstreams, strict=True), opener)
    assert answer["failed"] and "built with tool" in answer["msg"]


def test_a_tree_that_is_built_already_needs_nothing(upstreams: Upstreams, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o755)
    one, other = tmp_path / "one", tmp_path / "other"
    provide(tool(one, upstreams), opener)
    assert provide(user(one, upstreams, built_cache=str(cache)), opener)["state"] == "installed"
    assert provide(user(other, upstreams, built_cache=str(cache)), opener)["state"] == "installed"
    assert (other / "user/said").read_text() == "good morning\n"


@pytest.mark.parametrize("needs", [{"tool": STAMP}, {"tool": OTHER, "more": STAMP}])
def test_the_stamp_is_another_one_with_another_tool(needs: dict[str, str]) -> None:
    recipe = {"build": BUILD, "needs": {"tool": OTHER}}
    assert stamp({**recipe, "needs": needs}, {}) != stamp(recipe, {})
