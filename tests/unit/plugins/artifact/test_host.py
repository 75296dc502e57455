"""The host that a tree of foreign programs needs: the system, the machine, and the minimum version of its C library."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from fixtures.upstream.support import Upstreams, opener, provide, request

from plugins.module_utils.artifact import host

pytest_plugins = ["fixtures.upstream.served"]

WANTED = {"system": "Linux", "machine": "x86_64", "glibc": "2.31", "instead": "Build in a container"}


@pytest.fixture(autouse=True)
def this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that meets the requirements."""
    be(monkeypatch, "Linux", "x86_64", "glibc 2.36")


def be(patch: pytest.MonkeyPatch, system: str, machine: str, libc: str | None) -> None:
    """Simulate another host."""
    patch.setattr(platform, "system", lambda: system)
    patch.setattr(platform, "machine", lambda: machine)
    patch.setattr(os, "confstr", lambda name: libc)


@pytest.mark.parametrize("libc", ["glibc 2.31", "glibc 2.36", "glibc 2.100", "glibc 3.0"])
def test_a_later_c_library_will_do(monkeypatch: pytest.MonkeyPatch, libc: str) -> None:
    be(monkeypatch, "Linux", "x86_64", libc)
    assert host.mismatch(WANTED) == ""


@pytest.mark.parametrize(
    ("system", "machine", "libc", "told"),
    [
        ("Linux", "x86_64", "glibc 2.28", "this host is Linux on x86_64 with glibc 2.28. Build in a container"),
        ("Linux", "x86_64", "glibc 2.9", "with glibc 2.9."),
        ("Linux", "x86_64", None, "without glibc"),
        ("Linux", "aarch64", "glibc 2.36", "this host is Linux on aarch64"),
        ("Darwin", "arm64", None, "this host is Darwin on arm64"),
    ],
)
def test_the_reason_describes_the_unsuitable_host(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, libc: str | None, told: str
) -> None:
    be(monkeypatch, system, machine, libc)
    reason = host.mismatch(WANTED)
    assert "need Linux on x86_64 with glibc 2.31 or later, and" in reason and told in reason
    assert reason.endswith("Build in a container")


def test_a_host_whose_confstr_knows_no_glibc_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def confstr(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", confstr)
    assert host.glibc() == ""


def test_without_requirements_any_host_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, "Darwin", "arm64", None)
    assert host.mismatch({}) == ""


def test_on_a_host_that_is_too_old_the_component_is_deferred_without_a_request(
    upstreams: Upstreams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, "Linux", "x86_64", "glibc 2.28")
    before = len(upstreams.http.requests)
    for only in ("source", ""):
        answer = provide(request(tmp_path, upstreams.pin(), host=WANTED, only=only), opener)
        assert answer["state"] == "deferred" and "glibc 2.28" in answer["reason"]
    assert len(upstreams.http.requests) == before
    assert "glibc 2.28" in provide(request(tmp_path, upstreams.pin(), host=WANTED, strict=True), opener)["msg"]
