"""Fetching in role artifact, from a real server on the loopback interface."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import Upstreams, closed_port, opener

from plugins.module_utils.artifact import fetch
from plugins.module_utils.artifact.errors import Broken, Unreachable

pytest_plugins = ["fixtures.upstream.served"]
NAME = "noise.bin"


def get(upstreams: Upstreams, how: str, path: Path, timeout: float = 5.0, **pin: Any) -> None:
    wanted = {**upstreams.pin(NAME), **pin}
    fetch.fetch_url(upstreams.http.url(f"{how}/{NAME}"), wanted, str(path), opener, timeout)


@pytest.mark.parametrize("how", ["files", "redirect", "encoded"])
def test_the_pinned_file_arrives_whole(upstreams: Upstreams, tmp_path: Path, how: str) -> None:
    get(upstreams, how, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (upstreams.directory / "files" / NAME).read_bytes()
    assert os.listdir(tmp_path) == ["got"]


def test_a_connection_that_was_cut_off_is_tried_once_more(upstreams: Upstreams, tmp_path: Path) -> None:
    get(upstreams, "flaky", tmp_path / "got")
    assert upstreams.http.requests.count(f"/flaky/{NAME}") == 2


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "cut off after 131072 of 262144 bytes"),
        ("404", "HTTP 404"),
        ("410", "HTTP 410"),
        ("429", "HTTP 429"),
        ("500", "HTTP 500"),
        ("503", "HTTP 503"),
    ],
)
def test_a_failure_that_may_be_temporary_is_unreachable(
    upstreams: Upstreams,
    tmp_path: Path,
    how: str,
    said: str,
) -> None:
    with pytest.raises(Unreachable) as caught:
        get(upstreams, how, tmp_path / "got")
    assert said in str(caught.value)
    assert f"/{how}/{NAME}" in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("403", "HTTP 403"),
        ("401", "HTTP 401"),
        ("loop", "HTTP 302"),
        ("402", r"HTTP 402 .*: it requires a key in the URL \(\?key=…\)"),
    ],
)
def test_a_failure_that_a_retry_cannot_cure_is_broken(
    upstreams: Upstreams, tmp_path: Path, how: str, said: str
) -> None:
    with pytest.raises(Broken, match=said):
        get(upstreams, how, tmp_path / "got")
    assert os.listdir(tmp_path) == []


def test_a_web_page_in_place_of_the_file_is_not_reported_as_a_wrong_hash(upstreams: Upstreams, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=f"/moved/{NAME}: the server sends a web page, http://.*/page/moved, instead"):
        get(upstreams, "moved", tmp_path / "got")
    assert os.listdir(tmp_path) == []


def test_a_web_page_may_be_what_is_pinned(upstreams: Upstreams, tmp_path: Path) -> None:
    url = upstreams.http.url("page/licence.html")
    with pytest.raises(Broken, match="is not the pinned file"):
        fetch.fetch_url(url, {"sha256": "0" * 64}, str(tmp_path / "got"), opener, 5)


def test_a_key_in_the_address_is_sent(upstreams: Upstreams, tmp_path: Path) -> None:
    fetch.fetch_url(upstreams.http.url(f"keyed/{NAME}?key=NetBSD"), upstreams.pin(NAME), str(tmp_path / "got"), opener)
    assert (tmp_path / "got").read_bytes() == (upstreams.directory / "files" / NAME).read_bytes()
    with pytest.raises(Broken, match="HTTP 402"):
        get(upstreams, "keyed", tmp_path / "other")


def test_another_content_names_both_hashes_and_leaves_nothing(upstreams: Upstreams, tmp_path: Path) -> None:
    content = (upstreams.directory / "files" / NAME).read_bytes()
    wrong = hashlib.sha256(content[:-1] + bytes([content[-1] ^ 1])).hexdigest()
    with pytest.raises(Broken) as caught:
        get(upstreams, "altered", tmp_path / "got")
    assert wrong in str(caught.value)
    assert upstreams.pins["sha256"][NAME] in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_failed_fetch_leaves_the_file_that_was_there(upstreams: Upstreams, tmp_path: Path) -> None:
    (tmp_path / "got").write_text("older")
    with pytest.raises(Broken):
        get(upstreams, "altered", tmp_path / "got")
    assert (tmp_path / "got").read_text() == "older"


def test_a_refused_connection_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="refused"):
        url = f"http://127.0.0.1:{closed_port()}/x"
        fetch.fetch_url(url, {"sha256": "0" * 64}, str(tmp_path / "got"), opener, 5)


def test_a_name_that_does_not_resolve_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"upstream\.invalid"):
        url = "http://upstream.invalid/x"
        fetch.fetch_url(url, {"sha256": "0" * 64}, str(tmp_path / "got"), opener, 5)


@pytest.mark.parametrize("how", ["stall", "trickle"])
def test_a_server_that_stalls_or_is_too_slow_times_out(upstreams: Upstreams, tmp_path: Path, how: str) -> None:
    start = time.monotonic()
    with pytest.raises(Unreachable, match="timed out"):
        get(upstreams, how, tmp_path / "got", timeout=1.0)
    assert time.monotonic() - start < 15
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("pin", [{}, {"sha256": "abc"}, {"sha256": "g" * 64}, {"sha512": "0" * 64}])
def test_nothing_is_fetched_without_a_whole_hash(pin: dict[str, str]) -> None:
    with pytest.raises(Broken):
        fetch.wanted_hash(pin)


def test_the_strongest_hash_of_a_pin_counts() -> None:
    pin = {"sha1": "1" * 40, "sha256": "2" * 64, "sha512": "A" * 128}
    assert fetch.wanted_hash(pin) == ("sha512", "a" * 128)
    assert fetch.wanted_hash({"sha1": "1" * 40}) == ("sha1", "1" * 40)


def test_a_corrupted_file_in_the_cache_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"good")
    pin = {"sha256": hashlib.sha256(b"good").hexdigest()}
    assert fetch.is_cached(str(path), pin)
    path.write_bytes(b"rotten")
    assert not fetch.is_cached(str(path), pin)
    assert not path.exists()


def test_a_mirror_directory_is_checked_like_a_server(tmp_path: Path) -> None:
    (tmp_path / "mirror").write_bytes(b"good")
    pin = {"sha256": hashlib.sha256(b"good").hexdigest()}
    fetch.fetch_copy(str(tmp_path / "mirror"), pin, str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == b"good"
    (tmp_path / "mirror").write_bytes(b"bad")
    with pytest.raises(Broken, match=pin["sha256"]):
        fetch.fetch_copy(str(tmp_path / "mirror"), pin, str(tmp_path / "got"))
    with pytest.raises(Unreachable, match="no such file in the mirror"):
        fetch.fetch_copy(str(tmp_path / "none"), pin, str(tmp_path / "got"))
    assert sorted(os.listdir(tmp_path)) == ["got", "mirror"]
