"""Compares the host's state with the settings: finds conflicts, and makes the steps up and down. Changes nothing.

Steps are made only for parts that are missing, or that remain. So after a killed run, the next run completes the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.network import dhcp, firewall
from rumplab.network.record import Record, state_path
from rumplab.network.seen import IPV4, Link, Seen
from rumplab.network.settings import Settings
from rumplab.network.steps import End, Remove, Run, Step, Sysctl, Write

IPV6 = Path("/proc/sys/net/ipv6")
# No network has a shorter prefix. Routes with a shorter prefix are a default route in parts: a VPN adds them because
# they take precedence over the default route. The bridge's route takes precedence over them.
SHORTEST_NETWORK = 8
ANOTHER_SERVER = (
    "if its address is in use, another DNS server listens on port 53 of every address: configure that server to listen"
    " on its own interfaces only (dnsmasq: bind-dynamic)"
)


@dataclass(frozen=True)
class Tools:
    """The paths of the programs, the directory of the files of ``rumplab net``, and dnsmasq's account. Only `up` needs
    `dnsmasq`."""

    ip: str
    nft: str
    dnsmasq: str
    directory: Path
    user: str


def is_ours(link: Link, settings: Settings) -> bool:
    return link.kind == "bridge" and link.mac == settings.mac


def check(settings: Settings, seen: Seen, record: Record | None) -> None:
    """RumplabError when another owner uses the bridge's name, subnet or nftables table. The message names the owner."""
    link = seen.link(settings.bridge)
    if link is not None and not is_ours(link, settings):
        raise RumplabError(
            f"{settings.bridge} exists and is not this lab's: {describe(link, seen)}; choose another bridge_name"
        )
    for other in seen.links:
        for address in other.addresses:
            if other.name != settings.bridge and address.network.overlaps(settings.network):
                raise overlap(settings, f"{address} of interface {other.name}")
    for route in seen.routes:
        if route.network.prefixlen < SHORTEST_NETWORK or route.devices == (settings.bridge,):
            continue
        if route.network.overlaps(settings.network):
            raise overlap(settings, str(route))
    if record is None and seen.tables is not None and firewall.TABLE in seen.tables:
        raise RumplabError(
            f"nftables has a table '{firewall.TABLE}' that this lab's 'net up' did not make; bring the other"
            f" lab's network down, or remove the table: nft delete table {firewall.TABLE}"
        )


def overlap(settings: Settings, owner: str) -> RumplabError:
    return RumplabError(f"subnet {settings.network} overlaps {owner}; choose another bridge_address")


def describe(link: Link, seen: Seen) -> str:
    """The description of an interface for a message: kind, MAC, addresses, ports."""
    words = [f"{link.kind or 'network'} interface, MAC {link.mac or 'none'}"]
    words += [str(address) for address in link.addresses]
    ports = ", ".join(port.name for port in seen.ports(link.name))
    return ", ".join(words) + (f", ports {ports}" if ports else "")


def begin(settings: Settings, seen: Seen, session: str) -> Record:
    """The record of a first `net up`, with the current values of the kernel settings that it will change."""
    routes_already = seen.sysctls.get("ip_forward") == "1"
    return Record(settings, session, {} if routes_already or not settings.nat else dict(seen.sysctls))


def up(settings: Settings, seen: Seen, record: Record, tools: Tools) -> list[Step]:
    """The steps for the missing parts. The filter comes before routing, so that no packet is forwarded unfiltered."""
    name, link = settings.bridge, seen.link(settings.bridge)
    steps: list[Step] = []
    if link is None:
        steps.append(Run((tools.ip, "link", "add", "name", name, "address", settings.mac, "type", "bridge")))
    # With IPv6 on the bridge, a guest could become the host's router by a router advertisement.
    steps.append(Sysctl(IPV6 / "conf" / name / "disable_ipv6", "1"))
    if seen.tables is None or firewall.TABLE not in seen.tables:
        steps.append(Run((tools.nft, "-f", "-"), firewall.ruleset(settings)))
    if link is None or settings.address not in link.addresses:
        broadcast = str(settings.network.broadcast_address)
        steps.append(Run((tools.ip, "addr", "add", str(settings.address), "broadcast", broadcast, "dev", name)))
    if link is None or not link.up:
        steps.append(Run((tools.ip, "link", "set", "dev", name, "up")))
    if record.sysctls:
        steps.append(Sysctl(IPV4 / "ip_forward", "1"))
    if seen.dhcp is None:
        argv = dhcp.argv(tools.dnsmasq, settings, tools.directory, tools.user)
        steps.append(Run(tuple(argv), hint=ANOTHER_SERVER))
    return steps


def down(settings: Settings, seen: Seen, record: Record | None, tools: Tools, keep_link: bool = False) -> list[Step]:
    """The steps that remove the remaining parts, in reverse order: routing before the filter, and the record last."""
    steps: list[Step] = []
    if seen.dhcp is not None:
        steps.append(End(*seen.dhcp))
    if record is not None and record.sysctls.get("ip_forward"):
        # Writing ip_forward resets the other settings, so they are restored after it.
        order = sorted(record.sysctls, key=lambda name: name != "ip_forward")
        steps += [Sysctl(IPV4 / name, record.sysctls[name]) for name in order]
    link = seen.link(settings.bridge)
    if link is not None and is_ours(link, settings) and not keep_link:
        steps.append(Run((tools.ip, "link", "delete", "dev", settings.bridge)))
    # Without a record, the table isn't this lab's.
    if record is not None and (seen.tables is None or firewall.TABLE in seen.tables):
        steps.append(Run((tools.nft, "-f", "-"), firewall.removal()))
    files = (*dhcp.files(tools.directory), state_path(tools.directory))
    leftovers = tuple(path for path in files if path.exists())
    if leftovers:
        steps.append(Remove(leftovers))
    return steps


def remember(record: Record, tools: Tools) -> Write:
    """The step that writes the record, before all other steps of `up`."""
    return Write(state_path(tools.directory), record.text())
