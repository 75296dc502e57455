"""Artefacts that are built with other artefacts: their paths, their stamps, and deferral with the other."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import OTHER, STAMP, Upstreams, opener, provide, request

from plugins.filter.artifact_stamp import artifact_stamp as stamp
from plugins.module_utils.artifact import package as package_module

pytest_plugins = ["fixtures.upstream.served"]

# The recipe installs the output of the other artefact's program.
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


def test_the_other_tree_is_reached_by_a_path_without_blanks(upstreams: Upstreams, tmp_path: Path) -> None:
    prefix = tmp_path / "a lab"
    assert provide(tool(prefix, upstreams), opener)["state"] == "installed"
    answer = provide(user(prefix, upstreams), opener)
    assert answer["state"] == "installed", answer
    assert (prefix / "user/said").read_text() == "good morning\n"
    # The link to the other tree was removed with the work directory, and the tree itself was not.
    assert (prefix / "tool/bin/hello").exists()


def test_without_the_other_artefact_it_is_deferred_without_a_request(upstreams: Upstreams, tmp_path: Path) -> None:
    gone = {**upstreams.pin(), "urls": [upstreams.http.url("404/hello-1.0.tar")]}
    assert provide(tool(tmp_path, upstreams, source=gone), opener)["state"] == "deferred"
    before = len(upstreams.http.requests)
    answer = provide(user(tmp_path, upstreams, blocked="packages make: no archive"), opener)
    assert answer["state"] == "deferred"
    assert "it is built with tool, which isn't installed" in answer["reason"] and "HTTP 404" in answer["reason"]
    assert len(upstreams.http.requests) == before
    assert os.listdir(tmp_path / "work") == []


def test_a_deferral_with_another_reason_is_no_change(upstreams: Upstreams, tmp_path: Path) -> None:
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


@pytest.fixture
def package(upstreams: Upstreams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a substitute available."""

    def fetch(substitute: dict[str, str], directory: str) -> tuple[str, str, str]:
        os.makedirs(directory)
        return str(upstreams.directory / "files/hello-1.1.tar"), "1.1", "package hello-source 1.1-2"

    monkeypatch.setattr(package_module, "fetch_apt_source", fetch)


SUBSTITUTE = {"apt_source": "hello-source", "member": "x", "build": request(Path(), {})["build"], "needs": {}}
BOTH = {"candidates": ["upstream", "substitute"], "substitute": SUBSTITUTE, "paths": {}}


def test_what_the_upstream_alone_needs_does_not_hold_up_a_substitute(
    upstreams: Upstreams, tmp_path: Path, package: None
) -> None:
    before = len(upstreams.http.requests)
    assert provide(user(tmp_path, upstreams, only="source", **BOTH), opener)["state"] == "fetched"
    answer = provide(user(tmp_path, upstreams, **BOTH), opener)
    assert (answer["state"], answer["source"], answer["version"]) == ("installed", "substitute", "1.1"), answer
    assert "user 1.0 can't be built (it is built with tool, which isn't installed" in answer["reason"]
    # The substitute was built by its own recipe, and the upstream's source wasn't requested.
    assert os.access(tmp_path / "user/bin/hello", os.X_OK)
    assert len(upstreams.http.requests) == before


def test_with_what_it_needs_the_upstream_is_preferred(upstreams: Upstreams, tmp_path: Path, package: None) -> None:
    provide(user(tmp_path, upstreams, **BOTH), opener)
    provide(tool(tmp_path, upstreams), opener)
    # An installed substitute stays until a run with retry.
    assert provide(user(tmp_path, upstreams, **BOTH), opener)["source"] == "substitute"
    answer = provide(user(tmp_path, upstreams, retry=True, **BOTH), opener)
    assert (answer["source"], answer["version"]) == ("upstream", "1.0"), answer
    assert (tmp_path / "user/said").read_text() == "good morning\n"


def test_a_strict_run_takes_no_substitute(upstreams: Upstreams, tmp_path: Path, package: None) -> None:
    answer = provide(user(tmp_path, upstreams, strict=True, **BOTH), opener)
    assert answer["failed"] and "built with tool" in answer["msg"]


# The installed tree uses the other one, by a script and by a link.
WRAPPER = """mkdir -p "$1/user/bin" && printf '#!/bin/sh\\nexec %s/bin/hello\\n' "$2" >"$1/user/bin/said" &&
chmod 755 "$1/user/bin/said" && ln -s "$2/bin/hello" "$1/user/link"
"""
KEEPS = {
    "build": {
        "root": "user",
        "relocate": True,
        "commands": [{"argv": ["sh", "-c", WRAPPER, "sh", "@dest@", "@tool@"], "in": "build"}],
    },
    "paths": {"said": "bin/said"},
}


def says(path: Path) -> str:
    return subprocess.run([str(path)], capture_output=True, text=True, timeout=20, check=True).stdout


def test_an_installed_tree_uses_the_other_one_in_the_store(upstreams: Upstreams, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o755)
    kept = {"built_cache": str(cache), **KEEPS}
    one, other = tmp_path / "one", tmp_path / "other"
    compiler = provide(tool(one, upstreams), opener)["tree"]
    provide(user(one, upstreams, **kept), opener)
    assert f"exec {compiler}/bin/hello" in (one / "user/bin/said").read_text()
    assert says(one / "user/bin/said") == says(one / "user/link") == "good morning\n"
    # From the cache of built trees, below another prefix, it uses the tool there. Without that tool, the cached tree
    # isn't used.
    nowhere = {**upstreams.pin(), "urls": [upstreams.http.url("404/hello-1.0.tar")]}
    taker = {**user(other, upstreams, **kept), "source": nowhere}
    deferred = provide(taker, opener)
    assert deferred["state"] == "deferred" and "built with tool" in deferred["reason"]
    provide(tool(other, upstreams), opener)
    assert provide(taker, opener)["state"] == "installed"
    shutil.rmtree(one)
    assert says(other / "user/bin/said") == says(other / "user/link") == "good morning\n"


def test_the_other_tree_is_kept_while_it_is_used(upstreams: Upstreams, tmp_path: Path) -> None:
    used = provide(tool(tmp_path, upstreams), opener)["tree"]
    provide(user(tmp_path, upstreams, **KEEPS), opener)
    for digit in "123":
        answer = provide(tool(tmp_path, upstreams, stamps={"upstream": digit * 64}, generations=1), opener)
        assert used not in answer["removed"]
    assert says(tmp_path / "user/bin/said") == "good morning\n"
    (tmp_path / "user").unlink()
    for tree in (tmp_path / "store").glob("user-*"):
        shutil.rmtree(tree)
    last = provide(tool(tmp_path, upstreams, stamps={"upstream": "4" * 64}, generations=1), opener)
    assert used in last["removed"]
