"""Role artifact from pin to tree in one process, with real upstreams: candidates, cache, temporary files."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import OTHER, STAMP, Upstreams, closed_port, opener, provide, request
from support.staging import needs_root

from plugins.module_utils.artifact import git

pytest_plugins = ["fixtures.upstream.served"]


def hello(prefix: Path) -> str:
    """Run the installed program."""
    done = subprocess.run([str(prefix / "hello/bin/hello")], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def descriptor(prefix: Path) -> dict[str, Any]:
    """Return the descriptor, which the tool reads."""
    content: dict[str, Any] = json.loads((prefix / "etc/components.d/hello.json").read_text())
    return content


def test_from_a_pin_to_a_tree_and_nothing_the_second_time(upstreams: Upstreams, tmp_path: Path) -> None:
    wanted = request(tmp_path, upstreams.pin())
    first = provide(wanted, opener)
    assert (first["changed"], first["state"], first["source"]) == (True, "installed", "upstream"), first
    assert hello(tmp_path) == "good morning"
    before = len(upstreams.http.requests)
    assert provide(wanted, opener)["changed"] is False
    assert len(upstreams.http.requests) == before
    assert os.listdir(tmp_path / "work") == []
    found = descriptor(tmp_path)
    assert (found["version"], found["stamp"], found["reason"]) == ("1.0", STAMP, None)
    assert found["paths"] == {"hello": str(tmp_path / "hello/bin/hello")}


def test_candidates_are_tried_in_the_order_given(upstreams: Upstreams, tmp_path: Path) -> None:
    pin = {**upstreams.pin(), "urls": [upstreams.http.url(f"{how}/hello-1.0.tar") for how in ("404", "500")]}
    before = len(upstreams.http.requests)
    wanted = request(tmp_path, pin, mirror=upstreams.http.url("mirror"))
    assert provide(wanted, opener)["source"] == "mirror"
    asked = upstreams.http.requests[before:]
    assert asked == ["/404/hello-1.0.tar", "/500/hello-1.0.tar", "/mirror/hello-1.0.tar"]


def test_candidates_that_are_not_allowed_are_not_asked(upstreams: Upstreams, tmp_path: Path) -> None:
    before = len(upstreams.http.requests)
    answer = provide(request(tmp_path, upstreams.pin(), candidates=["mirror"]), opener)
    assert answer["state"] == "deferred" and "rumplab_mirror" in answer["reason"]
    assert len(upstreams.http.requests) == before


@pytest.mark.parametrize("kind", ["directory", "url"])
def test_a_git_pin_comes_from_a_mirrors_bundle(upstreams: Upstreams, tmp_path: Path, kind: str) -> None:
    mirror = str(upstreams.directory / "mirror") if kind == "directory" else upstreams.http.url("mirror/")
    pin = {"git": f"git://127.0.0.1:{closed_port()}/hello.git", "commit": upstreams.pins["commit"]}
    answer = provide(request(tmp_path, pin, mirror=mirror), opener)
    assert (answer["state"], answer["source"]) == ("installed", "mirror"), answer
    assert hello(tmp_path) == "good morning"
    assert [name for name in os.listdir(tmp_path / "cache") if "bundle" in name or "part" in name] == []


def test_a_git_mirror_without_the_bundle_defers(upstreams: Upstreams, tmp_path: Path) -> None:
    pin = {"git": f"git://127.0.0.1:{closed_port()}/hello.git", "commit": "1" * 40}
    for mirror in (str(tmp_path), upstreams.http.url("mirror")):
        answer = provide(request(tmp_path / "prefix", pin, mirror=mirror), opener)
        assert answer["state"] == "deferred", answer
        assert f"hello-{'1' * 40}.bundle" in answer["reason"]


def test_a_cached_source_is_not_fetched_again_unless_it_is_corrupted(upstreams: Upstreams, tmp_path: Path) -> None:
    assert provide(request(tmp_path, upstreams.pin()), opener)["state"] == "installed"
    before = len(upstreams.http.requests)
    again = request(tmp_path, upstreams.pin(), stamps={"upstream": OTHER, "substitute": ""})
    assert provide(again, opener)["changed"]
    assert len(upstreams.http.requests) == before
    (tmp_path / "cache/hello-1.0.tar").write_text("rotten")
    third = request(tmp_path, upstreams.pin(), stamps={"upstream": "a" * 64, "substitute": ""})
    assert provide(third, opener)["changed"]
    assert upstreams.http.requests[before:] == ["/files/hello-1.0.tar"]


@pytest.mark.parametrize("name", ["he-llo", "../hello", "Hello", "", ".hello"])
def test_a_name_that_could_be_another_trees_is_refused(tmp_path: Path, name: str) -> None:
    answer = provide(request(tmp_path / "prefix", {"urls": [], "sha256": ""}, name=name), opener)
    assert answer["failed"] and "name may have only" in answer["msg"]
    assert not (tmp_path / "prefix").exists()


def test_a_build_without_its_declared_files_fails(upstreams: Upstreams, tmp_path: Path) -> None:
    answer = provide(request(tmp_path, upstreams.pin(), paths={"a": "bin/hello", "b": "bin/bye"}), opener)
    assert answer["failed"] and "made no bin/bye in the tree" in answer["msg"]
    assert os.listdir(tmp_path / "store") == [] and not (tmp_path / "hello").exists()


@needs_root
def test_a_disk_that_fills_up_while_fetching_is_told(upstreams: Upstreams, small: Path) -> None:
    (small / "filler").write_bytes(bytes((4 << 20) - (100 << 10)))
    pin = upstreams.pin("noise.bin")
    answer = provide(request(small / "prefix", pin, space=0), opener)
    assert answer["failed"] and "no space left" in answer["msg"], answer
    assert os.listdir(small / "prefix/cache") == []


def test_an_older_tree_stays_in_use_while_the_newer_one_waits(upstreams: Upstreams, tmp_path: Path) -> None:
    assert provide(request(tmp_path, upstreams.pin()), opener)["state"] == "installed"
    newer = request(
        tmp_path,
        upstreams.pin("hello-1.1.tar", "404"),
        version="1.1",
        stamps={"upstream": OTHER, "substitute": ""},
    )
    answer = provide(newer, opener)
    assert answer["state"] == "deferred" and answer["changed"]
    found = descriptor(tmp_path)
    assert (found["state"], found["version"], found["wanted"]) == ("installed", "1.0", "1.1")
    assert "HTTP 404" in found["reason"]
    assert hello(tmp_path) == "good morning"
    assert provide(newer, opener)["changed"] is False


def test_a_deferral_is_removed_when_the_tree_in_use_is_wanted_again(upstreams: Upstreams, tmp_path: Path) -> None:
    wanted = request(tmp_path, upstreams.pin())
    provide(wanted, opener)
    away = {**upstreams.pin(), "urls": [f"http://127.0.0.1:{closed_port()}/hello-2.0.tar"], "sha256": "0" * 64}
    answer = provide({**request(tmp_path, away), "version": "2.0", "stamps": {"upstream": OTHER}}, opener)
    assert answer["state"] == "deferred"
    assert descriptor(tmp_path)["reason"].startswith("deferred:")
    assert hello(tmp_path) == "good morning"
    answer = provide(wanted, opener)
    assert (answer["state"], answer["changed"], answer["switched"]) == ("installed", True, False)
    assert (descriptor(tmp_path)["reason"], descriptor(tmp_path)["wanted"]) == (None, "1.0")
    assert provide(wanted, opener)["changed"] is False


def test_a_deferral_says_what_was_asked_for_and_until_when_that_holds(upstreams: Upstreams, tmp_path: Path) -> None:
    gone = {**upstreams.pin(), "urls": [f"http://127.0.0.1:{closed_port()}/hello-1.0.tar"]}
    wanted = request(tmp_path, gone, request="asked", retry_after=60)
    assert provide(wanted, opener)["state"] == "deferred"
    kept = descriptor(tmp_path)["deferral"]
    tried, until = (datetime.datetime.fromisoformat(kept[key]) for key in ("tried", "until"))
    assert (kept["request"], until - tried) == ("asked", datetime.timedelta(seconds=60))
    # A new attempt isn't a change, but the descriptor records it.
    again = provide({**wanted, "request": "in other words"}, opener)
    assert (again["changed"], descriptor(tmp_path)["deferral"]["request"]) == (False, "in other words")
    assert provide(request(tmp_path, upstreams.pin()), opener)["state"] == "installed"
    assert "deferral" not in descriptor(tmp_path)


def git_pin(upstreams: Upstreams, port: int = 0) -> dict[str, Any]:
    """Return the pin of the repository, at the server or at `port`, where nobody listens."""
    url = f"git://127.0.0.1:{port}/hello.git" if port else upstreams.git_url()
    return {"git": url, "commit": upstreams.pins["commit"]}


def test_the_source_alone_is_brought_to_the_cache_and_built_from_there(upstreams: Upstreams, tmp_path: Path) -> None:
    wanted = request(tmp_path, git_pin(upstreams))
    first = provide({**wanted, "only": "source"}, opener)
    assert (first["state"], first["changed"]) == ("fetched", True)
    assert os.listdir(tmp_path / "cache") == [f"hello-{upstreams.pins['commit']}"]
    assert os.listdir(tmp_path / "store") == os.listdir(tmp_path / "etc/components.d") == []
    again = provide({**wanted, "only": "source"}, opener)
    assert (again["state"], again["changed"]) == ("fetched", False)
    assert provide(wanted, opener)["state"] == "installed"
    # The origin is known, although the build used the cached source.
    assert (descriptor(tmp_path)["source"], descriptor(tmp_path)["origin"]) == ("upstream", upstreams.git_url())
    assert provide({**wanted, "only": "source"}, opener)["state"] == "installed"


def test_a_source_out_of_reach_defers_before_anything_else(upstreams: Upstreams, tmp_path: Path) -> None:
    wanted = request(tmp_path, git_pin(upstreams, closed_port()), only="source")
    assert provide(wanted, opener)["state"] == "deferred"
    assert descriptor(tmp_path)["state"] == "deferred"
    assert "rumplab_strict" in provide({**wanted, "strict": True}, opener)["msg"]


def test_without_git_a_git_source_is_reported_as_lacking_it(
    upstreams: Upstreams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "installed", lambda: False)
    wanted = request(tmp_path, git_pin(upstreams), only="source")
    assert provide(wanted, opener)["state"] == "lacking"
    # A blocked build and a release file need no git.
    assert provide({**wanted, "blocked": "no compiler"}, opener)["reason"] == "no compiler"
    assert provide({**wanted, "source": upstreams.pin()}, opener)["state"] == "fetched"


def test_a_built_tree_needs_no_source(upstreams: Upstreams, tmp_path: Path) -> None:
    cache = tmp_path / "built"
    cache.mkdir()
    more = {"built_cache": str(cache)}
    assert provide(request(tmp_path / "one", git_pin(upstreams), **more), opener)["state"] == "installed"
    other = request(tmp_path / "other", git_pin(upstreams, closed_port()), blocked="no compiler", **more)
    assert provide({**other, "only": "source"}, opener)["state"] == "fetched"
    assert provide(other, opener)["state"] == "installed"


def part(upstreams: Upstreams, name: str, how: str = "files", **more: Any) -> dict[str, Any]:
    return {**upstreams.pin(name, how), **more}


def copying() -> dict[str, Any]:
    """Return a recipe that installs the source itself as the tree."""
    return {"root": "tree", "commands": [{"argv": ["cp", "-R", "@source@", "@dest@/tree"]}]}


def test_a_source_of_parts_is_unpacked_over_itself_and_beside(upstreams: Upstreams, tmp_path: Path) -> None:
    parts = [
        part(upstreams, "hello-1.0.tar"),
        part(upstreams, "hello-1.1.tar", into="newer"),
        part(upstreams, "noise.bin", unpack=False, into="newer"),
    ]
    wanted = request(tmp_path, {"parts": parts}, build=copying(), paths={"noise": "newer/noise.bin"})
    answer = provide(wanted, opener)
    assert (answer["state"], answer["source"]) == ("installed", "upstream"), answer
    tree = Path(answer["tree"])
    assert (tree / "hello-1.0/VERSION").read_text() == "1.0\n"
    assert (tree / "newer/hello-1.1/VERSION").read_text() == "1.1\n"
    assert (tree / "newer/noise.bin").read_bytes() == (upstreams.directory / "files/noise.bin").read_bytes()
    origin = descriptor(tmp_path)["origin"]
    assert origin == ", ".join(upstreams.http.url(f"files/{name['urls'][0].split('/')[-1]}") for name in parts)


def test_fetched_parts_stay_in_the_cache_until_the_missing_one_arrives(upstreams: Upstreams, tmp_path: Path) -> None:
    parts = [part(upstreams, "hello-1.0.tar"), part(upstreams, "hello-1.1.tar", "404")]
    wanted = request(tmp_path, {"parts": parts}, build=copying(), paths={})
    answer = provide(wanted, opener)
    assert answer["state"] == "deferred" and "404/hello-1.1.tar: HTTP 404" in answer["reason"], answer
    assert [name for name in os.listdir(tmp_path / "cache") if name[0] != "."] == ["hello-1.0.tar"]
    before = len(upstreams.http.requests)
    parts[1] = part(upstreams, "hello-1.1.tar")
    assert provide(wanted, opener)["state"] == "installed"
    assert upstreams.http.requests[before:] == ["/files/hello-1.1.tar"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"into": "../beside"}, "outside"),
        ({"into": "/tmp/elsewhere"}, "outside"),
        ({"urls": [], "git": "https://a.example/x.git", "commit": "1" * 40}, "each part of a source must be a file"),
        ({"sha256": ""}, "nothing is fetched"),
    ],
)
def test_invalid_parts_are_refused(upstreams: Upstreams, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    parts = [part(upstreams, "hello-1.0.tar"), part(upstreams, "hello-1.1.tar", **change)]
    answer = provide(request(tmp_path, {"parts": parts}, build=copying(), paths={}), opener)
    assert answer["failed"] and said in answer["msg"], answer
    assert os.listdir(tmp_path / "store") == []


def test_files_of_one_name_share_neither_cache_nor_mirror_under_names_of_their_own(
    upstreams: Upstreams, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    made = upstreams.directory / "files"
    (mirror / "one-src.tar").write_bytes((made / "hello-1.0.tar").read_bytes())
    pins = {
        "one": {**upstreams.pin("hello-1.0.tar", "404"), "file": "one-src.tar"},
        "two": {**upstreams.pin("hello-1.1.tar"), "file": "two-src.tar"},
    }
    pins["one"]["urls"] = [upstreams.http.url("404/src.tar")]
    prefix = tmp_path / "prefix"
    for index, (name, pin) in enumerate(pins.items()):
        stamps = {"upstream": str(index) * 64, "substitute": ""}
        answer = provide(request(prefix, pin, mirror=str(mirror), stamps=stamps), opener)
        assert (answer["state"], answer["source"]) == ("installed", "mirror" if name == "one" else "upstream"), answer
    assert sorted(name for name in os.listdir(prefix / "cache") if name[0] != ".") == ["one-src.tar", "two-src.tar"]
