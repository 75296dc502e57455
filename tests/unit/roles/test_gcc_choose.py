"""The compiler that builds a recipe: the host's where it is suitable, otherwise the lab's GCC 9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from fixtures.upstream.support import ROOT

ROLE = ROOT / "roles/gcc"
OLD = ["5", "6", "7", "8", "9"]
LABS = {"cc": "@gcc@/bin/gcc-9", "cxx": "@gcc@/bin/g++-9", "needs": ["gcc"], "packages": [], "blocked": ""}


def choice(release: str, known: list[str], facts: Mapping[str, str] | None = None, **settings: Any) -> Any:
    """Return the role's choice on host `release` ("NAME MAJOR") for a recipe that builds with the GCCs `known`."""
    distribution, _, major = release.partition(" ")
    family = {"Ubuntu": "Debian", "Fedora": "RedHat", "Rocky": "RedHat", "MacOSX": "Darwin"}
    own = {
        "system": "Linux",
        "architecture": "x86_64",
        "distribution": distribution,
        "distribution_major_version": major,
        "os_family": family.get(distribution, distribution),
        **(facts or {}),
    }
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for path in (ROOT / "inventory/group_vars/all/pins.yml", ROLE / "defaults/main.yml", ROLE / "vars/main.yml"):
        variables.update(loader.load_from_file(str(path), trusted_as_template=True))
    variables.update(settings, ansible_facts=own, gcc_known=known)
    return Templar(loader=loader, variables=variables).template(variables["__gcc_choice"])


@pytest.mark.parametrize(
    ("release", "known", "cc"),
    [
        ("Debian 11", OLD, "gcc-9"),
        ("Debian 10", OLD, "gcc-8"),
        ("Debian 12", ["11", "12"], "gcc-12"),
        ("Debian 12", ["11"], "gcc-11"),
        ("Ubuntu 20", ["8", "9"], "gcc-9"),
        ("Ubuntu 24", OLD, "gcc-9"),
        ("Rocky 8", OLD, "gcc"),
    ],
)
def test_a_suitable_compiler_of_the_host_is_preferred(release: str, known: list[str], cc: str) -> None:
    found = choice(release, known)
    assert (found["cc"], found["cxx"]) == (cc, cc.replace("gcc", "g++"))
    assert (found["needs"], found["blocked"]) == ([], "")
    assert cc in found["packages"] and len(found["packages"]) == 2


@pytest.mark.parametrize(
    "release",
    ["Debian 12", "Debian 13", "Debian n/a", "Fedora 43", "Fedora 99", "Archlinux n/a", "Ubuntu 26", "Linuxmint 22"],
)
def test_the_labs_compiler_is_used_where_the_host_has_only_newer_or_unknown_ones(release: str) -> None:
    assert choice(release, OLD) == LABS


@pytest.mark.parametrize(
    ("release", "packages"),
    [("Debian 13", ["gcc", "g++"]), ("Fedora 43", ["gcc", "gcc-c++"]), ("Archlinux n/a", ["gcc"]), ("MacOSX 14", [])],
)
def test_a_recipe_that_builds_with_any_compiler_gets_the_hosts_default(release: str, packages: list[str]) -> None:
    found = choice(release, [], {"architecture": "aarch64"})
    assert (found["cc"], found["cxx"], found["needs"], found["blocked"]) == ("gcc", "g++", [], "")
    assert found["packages"] == packages


@pytest.mark.parametrize(
    ("release", "known", "facts", "settings"),
    [
        ("Debian 13", OLD, {"architecture": "aarch64"}, {}),
        ("MacOSX 14", OLD, {"system": "Darwin", "architecture": "arm64"}, {}),
        ("Debian 12", ["7", "8"], {}, {}),
        ("Debian 12", OLD, {}, {"gcc_enabled": False}),
    ],
)
def test_on_a_host_without_a_suitable_compiler_the_reason_is_given(
    release: str, known: list[str], facts: dict[str, str], settings: dict[str, Any]
) -> None:
    found = choice(release, known, facts, **settings)
    assert (found["cc"], found["cxx"], found["needs"], found["packages"]) == ("", "", [], [])
    assert f"GCC {', '.join(known)}" in found["blocked"] and release in found["blocked"]


def test_the_releases_are_lists_of_majors() -> None:
    releases = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__gcc_releases"]
    for offered in releases.values():
        assert offered and all(isinstance(major, str) and major.isdigit() for major in offered)
