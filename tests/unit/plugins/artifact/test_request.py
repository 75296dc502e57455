"""The options of module artifact, and the request that they make."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.upstream.support import OTHER, STAMP, request

from plugins.module_utils.artifact.errors import Broken
from plugins.module_utils.artifact.request import Request
from plugins.modules import artifact

PIN = {"urls": ["https://example.org/a/hello%201.tar?raw"], "sha256": "0" * 64}
SUBSTITUTE: dict[str, Any] = {"apt_source": "hello-source", "build": {"root": "usr"}, "needs": {}}


def asked(source: Any = PIN, **more: Any) -> Request:
    return Request.of(request(Path("/lab"), source, **more))


def test_every_option_is_documented_and_is_part_of_the_request_or_the_modules_own() -> None:
    documented = yaml.safe_load(artifact.DOCUMENTATION)["options"]
    assert set(documented) == set(artifact.OPTIONS)
    assert {field.name for field in fields(Request)} == set(artifact.OPTIONS) - {"user", "credentials"}


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        asked().version = "2.0"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["Hello", "hello-1", "", "1hello", "../x"])
def test_an_ambiguous_name_of_a_tree_is_refused(name: str) -> None:
    asked().check()
    with pytest.raises(Broken, match="lower-case letters, digits and _"):
        replace(asked(), name=name).check()


def test_a_substitute_may_have_its_own_recipe_and_needs_and_has_its_own_stamp() -> None:
    one = asked(substitute=SUBSTITUTE, needs={"tool": STAMP})
    assert one.recipe_for("upstream") == one.recipe_for("mirror") == (one.build, {"tool": STAMP})
    assert one.recipe_for("substitute") == ({"root": "usr"}, {})
    assert replace(one, substitute={"apt_source": "x"}).recipe_for("substitute") == one.recipe_for("upstream")
    assert [one.stamp_for(kind) for kind in ("upstream", "mirror", "bundle", "substitute")] == [STAMP] * 3 + [OTHER]


def test_a_substitute_is_used_where_there_is_one_and_it_is_allowed() -> None:
    allowed = ["upstream", "substitute"]
    assert asked(substitute=SUBSTITUTE, candidates=allowed).kinds() == ["upstream", "substitute"]
    fewer: list[dict[str, Any]] = [{"strict": True}, {"substitute": {}}, {"candidates": ["upstream"]}]
    for less in fewer:
        assert asked(**{"substitute": SUBSTITUTE, "candidates": allowed, **less}).kinds() == ["upstream"]


@pytest.mark.parametrize(
    ("pin", "name"),
    [
        (PIN, "hello%201.tar"),
        ({**PIN, "file": "other.tar"}, "other.tar"),
        ({"git": "https://example.org/hello", "commit": "1" * 40}, "hello-" + "1" * 40),
    ],
)
def test_cache_and_mirror_know_a_pin_by_one_name(pin: Any, name: str) -> None:
    assert asked().file_name(pin) == name
    ending = ".bundle" if "git" in pin else ""
    assert asked(mirror="/mirror/").mirror_origin(pin) == f"/mirror/{name}{ending}"
    quoted = name.replace("%", "%25")
    assert asked(mirror="https://example.org/m").mirror_origin(pin) == f"https://example.org/m/{quoted}{ending}"


def test_each_part_of_a_source_must_be_a_file() -> None:
    assert asked().pieces() == [PIN]
    assert asked(source={"parts": [PIN, PIN]}).pieces() == [PIN, PIN]
    with pytest.raises(Broken, match="each part of a source must be a file"):
        asked(source={"parts": [PIN, {"git": "x"}]}).pieces()
