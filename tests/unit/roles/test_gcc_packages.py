"""The pins of role gcc: packages of Debian's pool, with each server that may have them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from fixtures.upstream.support import ROOT

from plugins.filter import gcc_packages

PINS: dict[str, Any] = yaml.safe_load((ROOT / "inventory/group_vars/all/pins.yml").read_text("utf-8"))["rumplab_pins"]
GCC = PINS["gcc"]


def test_a_package_has_the_urls_of_each_server_in_order() -> None:
    row = {"date": "20230601T000000Z", "packages": {"pool/main/x/x_1_amd64.deb": {"size": 5, "sha256": "a" * 64}}}
    assert gcc_packages.gcc_parts(row, GCC["hosts"]) == [
        {
            "urls": [
                "apt:pool/main/x/x_1_amd64.deb",
                "https://snapshot.debian.org/archive/debian/20230601T000000Z/pool/main/x/x_1_amd64.deb",
                "https://archive.debian.org/debian/pool/main/x/x_1_amd64.deb",
            ],
            "size": 5,
            "sha256": "a" * 64,
        }
    ]


@pytest.mark.parametrize("version", GCC["versions"])
def test_the_pins_are_whole(version: str) -> None:
    row = GCC["versions"][version]
    assert re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", row["date"])
    names = [path.rpartition("/")[2] for path in row["packages"]]
    assert len(set(names)) == len(names)
    for path, pin in row["packages"].items():
        assert re.fullmatch(r"pool/main/\w+/[\w.+-]+/[\w.+-]+_amd64\.deb", path), path
        assert re.fullmatch(r"[0-9a-f]{64}", pin["sha256"]) and pin["size"] > 10_000
    major = version.partition(".")[0]
    for name in ("gcc", "g++", "cpp"):
        assert any(found.startswith(f"{name}-{major}_{version}-") for found in names)
