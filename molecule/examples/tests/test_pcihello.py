"""The example unikernel: its program and sources, and that a debugger and a boot loader can use it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from testinfra.host import Host

DESCRIPTOR = "/opt/rumplab/etc/components.d/pcihello.json"


@pytest.fixture(scope="module")
def descriptor(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file(DESCRIPTOR).content_string)
    return found


def test_it_comes_from_the_repository(descriptor: dict[str, Any]) -> None:
    assert (descriptor["state"], descriptor["source"], descriptor["licence"]) == ("installed", "bundle", "MIT")


def test_a_debugger_finds_the_symbol_to_break_at(host: Host, descriptor: dict[str, Any]) -> None:
    symbols = host.check_output("nm %s", descriptor["paths"]["program"])
    assert re.search(r" T pci_device_found$", symbols, re.MULTILINE)
    lines = host.check_output("readelf --debug-dump=decodedline %s", descriptor["paths"]["program"])
    assert "pci.c" in lines


def test_a_boot_loader_finds_the_header_in_the_first_8_kib(host: Host, descriptor: dict[str, Any]) -> None:
    head = host.check_output("head -c 8192 %s | od -An -v -tx4 -w4", descriptor["paths"]["program"]).split()
    at = head.index("1badb002")
    magic, flags, check = (int(word, 16) for word in head[at : at + 3])
    assert (magic + flags + check) % (1 << 32) == 0
    assert flags & 0x10000, "the address fields"


def test_the_sources_stand_beside_it(host: Host, descriptor: dict[str, Any]) -> None:
    assert {"boot.S", "pci.c", "main.c"} <= set(host.file(descriptor["paths"]["source"]).listdir())


def test_root_built_nothing(host: Host, descriptor: dict[str, Any]) -> None:
    assert host.file(descriptor["paths"]["program"]).user == "rumplab"
