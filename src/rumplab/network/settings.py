"""The bridge's settings: ``etc/bridge.json`` below the prefix, which role bridge writes.

Keys: ``schema`` (1), ``bridge`` (interface name), ``address`` (the host's address on it, with prefix length), ``mac``
(the bridge's MAC address, which identifies it as this lab's), ``dhcp`` (first and last address for guests), ``nat``,
``group`` (its members may attach a guest without root), ``persistent`` (systemd-networkd, ifupdown or none).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from rumplab.errors import NotProvisioned, RumplabError
from rumplab.host.answers import typed
from rumplab.lab import config
from rumplab.lab.config import Lab

# The kernel's IFNAMSIZ, less the closing NUL.
NAME_LENGTH = 15
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MAC = re.compile(r"[0-9a-f][26ae](:[0-9a-f]{2}){5}")
MANAGERS = ("systemd-networkd", "ifupdown", "none")
PROVISION = "set bridge_manage: true and run"


@dataclass(frozen=True)
class Settings:
    """A valid ``bridge.json``."""

    bridge: str
    address: IPv4Interface
    mac: str
    first: IPv4Address
    last: IPv4Address
    nat: bool
    group: str
    persistent: str

    @property
    def network(self) -> IPv4Network:
        return self.address.network

    @property
    def leases(self) -> int:
        """The number of addresses for guests."""
        return int(self.last) - int(self.first) + 1

    def as_data(self) -> dict[str, Any]:
        """The settings as the data of ``bridge.json``."""
        return {
            "schema": config.SCHEMA,
            "bridge": self.bridge,
            "address": str(self.address),
            "mac": self.mac,
            "dhcp": [str(self.first), str(self.last)],
            "nat": self.nat,
            "group": self.group,
            "persistent": self.persistent,
        }


def find(lab: Lab) -> Path:
    """The path of the lab's ``bridge.json``. NotProvisioned when the lab has no bridge."""
    path = lab.prefix / "etc" / "bridge.json"
    if not path.is_file():
        raise NotProvisioned(f"this lab has no bridge; {PROVISION}: {remedy_of(lab)}")
    return path


def load(lab: Lab) -> Settings:
    """The settings of this lab. NotProvisioned when the lab has no bridge; RumplabError when they are invalid."""
    path = find(lab)
    return parse(config.read_object(path, remedy_of(lab)), path, remedy_of(lab))


def remedy_of(lab: Lab) -> str:
    return f"{lab.provision} --tags bridge"


def parse(data: dict[str, Any], path: Path, remedy: str) -> Settings:
    """The settings in `data`, the content of `path`. RumplabError names the invalid key and `remedy`."""

    def wrong(key: str, why: str) -> RumplabError:
        variable = f"bridge_{SET_BY.get(key, key)}"
        return RumplabError(f"{path}: {key}: {why}; set {variable} and write it again: {remedy}")

    bridge = config.text(data, "bridge", path, remedy)
    if len(bridge) > NAME_LENGTH:
        raise wrong("bridge", f"'{bridge}' is longer than the {NAME_LENGTH} characters of an interface")
    if not NAME.fullmatch(bridge):
        raise wrong("bridge", f"'{bridge}' is not an interface's name: use letters, digits, '.', '_' and '-'")
    mac = config.text(data, "mac", path, remedy)
    if not MAC.fullmatch(mac):
        raise wrong("mac", f"'{mac}' is not a locally administered unicast address")
    try:
        address = IPv4Interface(config.text(data, "address", path, remedy))
    except ValueError as error:
        raise wrong("address", str(error)) from error
    hosts = address.network
    if hosts.prefixlen > 30 or address.ip in (hosts.network_address, hosts.broadcast_address):
        raise wrong("address", f"{address} is not a host's address in a subnet with room for guests")
    first, last = dhcp_range(data.get("dhcp"), address, wrong)
    if not isinstance(data.get("nat"), bool):
        raise wrong("nat", "must be true or false")
    if data.get("persistent") not in MANAGERS:
        raise wrong("persistent", f"must be one of {', '.join(MANAGERS)}")
    group = config.text(data, "group", path, remedy)
    return Settings(bridge, address, mac, first, last, data["nat"], group, data["persistent"])


# The keys whose variable in the role has another name.
SET_BY = {"bridge": "name"}


def dhcp_range(value: Any, address: IPv4Interface, wrong: Any) -> tuple[IPv4Address, IPv4Address]:
    """The first and last address of the range `value`. Raises the error that `wrong` makes when the range is
    invalid."""
    try:
        first, last = (IPv4Address(typed(item, str)) for item in value)
    except (AddressValueError, TypeError, ValueError) as error:
        raise wrong("dhcp", f"must be two addresses, the first and the last for guests ({error})") from error
    network = address.network
    hosts = range(int(network.network_address) + 1, int(network.broadcast_address))
    if int(first) not in hosts or int(last) not in hosts or first > last:
        raise wrong("dhcp", f"{first} to {last} is not a range of host addresses in {network}")
    if first <= address.ip <= last:
        raise wrong("dhcp", f"{first} to {last} contains the host's own address {address.ip}")
    return first, last
