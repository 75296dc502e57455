"""bridge.json: valid settings, and the errors that name an invalid one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rumplab.errors import RumplabError
from rumplab.network.settings import Settings, parse

GOOD = {
    "schema": 1,
    "bridge": "rumplab0",
    "address": "10.0.1.1/24",
    "mac": "02:11:22:33:44:55",
    "dhcp": ["10.0.1.50", "10.0.1.99"],
    "nat": False,
    "group": "rumplab",
    "persistent": "none",
}


def parsed(**changes: Any) -> Settings:
    return parse({**GOOD, **changes}, Path("/lab/etc/bridge.json"), "./provision --tags bridge")


def test_good_settings_survive_the_round_trip() -> None:
    found = parsed()
    assert found.as_data() == GOOD
    assert found.leases == 50
    assert str(found.network) == "10.0.1.0/24"


@pytest.mark.parametrize("name", ["a", "x" * 15, "br-lab.1_2"])
def test_names(name: str) -> None:
    assert parsed(bridge=name).bridge == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bridge": "x" * 16}, "longer than the 15 characters"),
        ({"bridge": 'a";drop'}, "is not an interface's name"),
        ({"bridge": "../x"}, "is not an interface's name"),
        ({"bridge": "-x"}, "is not an interface's name"),
        ({"bridge": ""}, "'bridge' must be a non-empty string"),
        ({"mac": "01:11:22:33:44:55"}, "locally administered"),
        ({"mac": "52-54-00-00-00-01"}, "locally administered"),
        ({"address": "10.0.1.1/33"}, "address: "),
        ({"address": "10.0.1/24"}, "address: "),
        ({"address": "10.0.1.0/24"}, "is not a host's address"),
        ({"address": "10.0.1.255/24"}, "is not a host's address"),
        ({"address": "10.0.1.1/31"}, "room for guests"),
        ({"address": "10.0.1.1"}, "room for guests"),
        ({"dhcp": None}, "must be two addresses"),
        ({"dhcp": ["10.0.1.50"]}, "must be two addresses"),
        ({"dhcp": ["10.0.1.50", "beyond"]}, "must be two addresses"),
        ({"dhcp": ["10.0.1.99", "10.0.1.50"]}, "is not a range"),
        ({"dhcp": ["10.0.2.50", "10.0.2.99"]}, "is not a range"),
        ({"dhcp": ["10.0.1.200", "10.0.1.255"]}, "is not a range"),
        ({"dhcp": ["10.0.1.1", "10.0.1.9"]}, "contains the host's own address"),
        ({"nat": "yes"}, "must be true or false"),
        ({"persistent": "NetworkManager"}, "must be one of systemd-networkd, ifupdown, none"),
        ({"group": ""}, "'group' must be a non-empty string"),
    ],
)
def test_refused_by_name_with_a_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RumplabError) as refused:
        parsed(**change)
    assert message in str(refused.value)
    assert "/lab/etc/bridge.json" in str(refused.value)
    assert "./provision --tags bridge" in str(refused.value)
