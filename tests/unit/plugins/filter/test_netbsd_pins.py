"""The pins of a NetBSD release: lists of hashes, contradicting sources, and file names."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from fixtures.upstream.support import ROOT
from upstream.anchors import variable_of

from plugins.filter import netbsd

LONG, OTHER, SHORT = "a" * 128, "b" * 128, "c" * 64
HOSTS = ["https://a.example/NetBSD-@release@/@file@", "https://b.example/@release@/@file@?key=NetBSD"]
PINS: dict[str, Any] = yaml.safe_load((ROOT / "inventory/group_vars/all/pins.yml").read_text("utf-8"))["rumplab_pins"]


@pytest.mark.parametrize(
    "line",
    [
        f"SHA512 (source/sets/src.tgz) = {LONG}",
        f"SHA512 (./source/sets/src.tgz) = {LONG}",
        f"SHA512 (NetBSD-10.1/source/sets/src.tgz) = {LONG}",
        f"SHA512 (/pub/NetBSD/NetBSD-9.0_STABLE/source/sets/src.tgz) = {LONG}  ",
        f"SHA256 (source/sets/src.tgz) = {SHORT}\nSHA512 (source/sets/src.tgz) = {LONG}",
        f"SHA512 (source/sets/src.tgz) = {LONG}\nSHA256 (source/sets/src.tgz) = {SHORT}",
        f"MD5 (source/sets/src.tgz) = {'d' * 32}\nSHA512 (source/sets/src.tgz) = {LONG}",
    ],
)
def test_a_list_of_hashes_is_read(line: str) -> None:
    signed = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA1\n\n{line}\n-----BEGIN PGP SIGNATURE-----\nAAAA\n"
    assert netbsd.netbsd_hash_list(signed) == {"source/sets/src.tgz": LONG}


@pytest.mark.parametrize("text", ["", "<!DOCTYPE html><title>Moved</title>", f"src.tgz {LONG}"])
def test_a_text_that_is_not_a_list_of_hashes_is_refused(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="list of hashes has no line of the form"):
        netbsd.netbsd_hash_list(text)


def test_sources_of_hashes_are_merged_and_the_longest_hash_is_used() -> None:
    known = netbsd.netbsd_hashes([{"x": SHORT, "y": LONG}, {"x": LONG.upper(), "z": SHORT}, {"x": SHORT}])
    assert known == {"x": LONG, "y": LONG, "z": SHORT}


def test_sources_that_disagree_are_an_error() -> None:
    with pytest.raises(AnsibleFilterError, match=f"x: one source states the hash {LONG}, another {OTHER}"):
        netbsd.netbsd_hashes([{"x": LONG}, {"x": OTHER}])


@pytest.mark.parametrize("digest", ["", "a" * 40, "a" * 127, "g" * 64])
def test_an_invalid_hash_is_refused(digest: str) -> None:
    with pytest.raises(AnsibleFilterError, match="neither a sha512 nor a sha256"):
        netbsd.netbsd_hashes([{"x": digest}])


def test_a_part_is_a_pin_with_a_name_of_its_own() -> None:
    part = netbsd.netbsd_part("i386/binary/sets/base.tgz", "8.3", HOSTS, {"i386/binary/sets/base.tgz": LONG}, into="x")
    assert part == {
        "urls": [
            "https://a.example/NetBSD-8.3/i386/binary/sets/base.tgz",
            "https://b.example/8.3/i386/binary/sets/base.tgz?key=NetBSD",
        ],
        "file": "NetBSD-8.3-i386-binary-sets-base.tgz",
        "sha512": LONG,
        "into": "x",
    }
    assert "sha256" in netbsd.netbsd_part("y", "8.3", HOSTS, {"y": SHORT})
    assert not {"sha256", "sha512"} & set(netbsd.netbsd_part("y", "8.3", HOSTS, {}))


def test_the_pinned_releases_have_their_source_sets_and_whole_hashes() -> None:
    versions = PINS["netbsd"]["versions"]
    assert versions
    for files in versions.values():
        assert {f"source/sets/{name}.tgz" for name in ("src", "syssrc", "gnusrc", "sharesrc")} <= set(files)
        assert netbsd.netbsd_hashes([files]) == files


CDN, KEYED = PINS["netbsd"]["hosts"]


@pytest.mark.parametrize(
    ("release", "hosts"), [("8.3", [KEYED, CDN]), ("9.4", [KEYED, CDN]), ("10.1", [CDN, KEYED]), ("11.0", [CDN, KEYED])]
)
def test_both_servers_are_listed_the_likelier_one_first(release: str, hosts: list[str]) -> None:
    assert variable_of("netbsd_release", "netbsd_release_hosts", {"netbsd_release_version": release}) == hosts


@pytest.mark.parametrize(("release", "heartbeat"), [("8.3", False), ("10.1", False), ("11.0", True), ("12.0", True)])
def test_a_kernel_for_a_debugger_has_no_heartbeat_from_netbsd_11_on(release: str, heartbeat: bool) -> None:
    lines = variable_of("netbsd_guest", "__netbsd_guest_kgdb_lines", {"netbsd_guest_release": release})
    assert lines[:3] == ["no options DDB", "options KGDB", 'options KGDB_DEVNAME="\\"com\\""']
    assert ("no options HEARTBEAT" in lines) is heartbeat


@pytest.mark.parametrize(
    ("release", "newest"), [("8.3", 14), ("9.4", 14), ("10.1", 14), ("11.0", None), ("12.0", None)]
)
def test_a_compiler_is_refused_where_it_is_known_to_fail(release: str, newest: int | None) -> None:
    settings = {"netbsd_release_version": release, "__netbsd_release_arch": "amd64"}
    host = variable_of("netbsd_release", "__netbsd_release_host", settings)
    assert host.get("newest_gcc") == newest and "-fcommon" in host["cflags"].split()
    commands = variable_of("netbsd_release", "__netbsd_release_tools_build", settings)["commands"]
    assert len(commands) == (2 if newest else 1)


def test_no_two_pins_share_a_name_in_the_cache() -> None:
    """Two such files would overwrite each other in the cache, and a mirror couldn't contain both."""
    names = [
        pin.get("file") or pin["urls"][0].rsplit("/", 1)[-1]
        for project in PINS.values()
        for pin in project.get("versions", {}).values()
        if "urls" in pin
    ]
    assert len(names) > 5
    assert len(names) == len(set(names))
