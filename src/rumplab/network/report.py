"""The output of ``rumplab net status``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rumplab import output
from rumplab.network import firewall
from rumplab.network.dhcp import Lease
from rumplab.network.plan import is_ours
from rumplab.network.ports import Port
from rumplab.network.seen import Seen
from rumplab.network.settings import Settings

DARWIN = {
    "state": "vmnet",
    "detail": "macOS needs no bridge of the lab: QEMU's vmnet makes one for each machine, which needs root",
    "remedy": "sudo rumplab run IMAGE --net bridge",
}


def darwin_text(doing: bool = True) -> str:
    """The message on macOS: for `net up` and `net down`, or with `doing` False for `net status`."""
    said = f"{DARWIN['detail']}: {DARWIN['remedy']}"
    return f"nothing to do: {said}" if doing else said


def state(settings: Settings, seen: Seen, recorded: bool) -> str:
    """The bridge's state: 'up', 'down', 'foreign' (another owner has an interface of its name), or 'partial' (a run was
    killed, or the host's boot made only the bridge itself)."""
    link = seen.link(settings.bridge)
    if link is not None and not is_ours(link, settings):
        return "foreign"
    table = recorded if seen.tables is None else recorded and firewall.TABLE in seen.tables
    addressed = link is not None and link.up and settings.address in link.addresses
    parts = [addressed, table, seen.dhcp is not None]
    if all(parts):
        return "up"
    return "partial" if any(parts) or link is not None else "down"


def notes(settings: Settings, seen: Seen, leases: Sequence[Lease], bridge_netfilter: bool) -> list[str]:
    """Problems that prevent guests from getting an address or from communicating, each with its remedy."""
    found = []
    if len(leases) >= settings.leases:
        found.append(
            f"all {settings.leases} addresses are in use, so the next guest gets none; widen bridge_dhcp, or wait"
            " until a lease expires"
        )
    for name in firewall.dropping(seen.chains):
        if bridge_netfilter:
            found.append(
                f"nftables chain '{name}' drops packets between guests, because br_netfilter passes bridged packets"
                f" to it; accept {settings.bridge} in it, or run: sysctl net.bridge.bridge-nf-call-iptables=0"
            )
        elif settings.nat:
            found.append(
                f"nftables chain '{name}' drops packets from guests to other networks; accept {settings.bridge} in it"
            )
    return found


def as_data(
    settings: Settings,
    seen: Seen,
    recorded: bool,
    ports: Sequence[Port],
    leases: Sequence[Lease],
    bridge_netfilter: bool = False,
) -> dict[str, Any]:
    """The report for --json."""
    return {
        "bridge": settings.bridge,
        "state": state(settings, seen, recorded),
        "address": str(settings.address),
        "ports": [asdict(port) for port in ports],
        "dhcp": {
            "pid": seen.dhcp[0] if seen.dhcp else None,
            "first": str(settings.first),
            "last": str(settings.last),
            "size": settings.leases,
            "leases": [asdict(lease) for lease in leases],
        },
        "nat": settings.nat,
        "group": settings.group,
        "persistent": settings.persistent,
        "notes": notes(settings, seen, leases, bridge_netfilter),
    }


def as_text(data: dict[str, Any], ports: Sequence[Port]) -> str:
    """The report as text. `data` is that of `as_data`."""
    dhcp = data["dhcp"]
    server = f"dnsmasq, pid {dhcp['pid']}" if dhcp["pid"] else "not running"
    lines = [
        f"{data['bridge']}: {data['state']}, {data['address']}",
        f"dhcp: {dhcp['first']} to {dhcp['last']}, {len(dhcp['leases'])} of {dhcp['size']} taken ({server})",
        f"nat: {'on' if data['nat'] else 'off'}",
        f"without root: members of group {data['group']}",
        f"after a reboot: {'rumplab net up' if data['persistent'] == 'none' else data['persistent']}",
        f"attached: {', '.join(map(str, ports)) or 'nothing'}",
    ]
    if dhcp["leases"]:
        rows = [[lease["address"], lease["mac"], lease["name"] or "-"] for lease in dhcp["leases"]]
        lines.append(output.table(["ADDRESS", "MAC", "NAME"], rows))
    return "\n".join([*lines, *data["notes"]])
