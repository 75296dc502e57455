"""The lab's nftables table. rumplab changes no other table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rumplab.network.settings import Settings

TABLE = "inet rumplab"


def ruleset(settings: Settings) -> str:
    """The script for ``nft -f``, which the kernel applies atomically.

    Guests reach each other and the host. No host outside can open a connection to a guest. Without NAT, no packet is
    forwarded in either direction, even on a host that is a router.
    """
    bridge = f'"{settings.bridge}"'
    forward = [f"iifname {bridge} oifname {bridge} accept"]
    if settings.nat:
        forward += [f"iifname {bridge} accept", f"oifname {bridge} ct state established,related accept"]
    else:
        forward.append(f"iifname {bridge} drop")
    forward.append(f"oifname {bridge} drop")
    chains = [chain("forward", "type filter hook forward priority filter; policy accept;", forward)]
    if settings.nat:
        masquerade = f"ip saddr {settings.network} oifname != {bridge} masquerade"
        chains.append(chain("postrouting", "type nat hook postrouting priority srcnat;", [masquerade]))
    return f"table {TABLE} {{\n" + "".join(chains) + "}\n"


def removal() -> str:
    """The script for ``nft -f`` that deletes the table, and does nothing if it doesn't exist."""
    return f"add table {TABLE}\ndelete table {TABLE}\n"


def chain(name: str, hook: str, rules: Iterable[str]) -> str:
    body = "".join(f"\t\t{line}\n" for line in [hook, *rules])
    return f"\tchain {name} {{\n{body}\t}}\n"


def dropping(chains: Iterable[dict[str, Any]]) -> list[str]:
    """The base chains of other tables whose policy drops forwarded packets, each as 'FAMILY TABLE CHAIN'. `chains` is
    nft's JSON."""
    return [
        f"{item['family']} {item['table']} {item['name']}"
        for item in chains
        if item.get("hook") == "forward"
        and item.get("policy") == "drop"
        and f"{item['family']} {item['table']}" != TABLE
        and item["family"] in ("ip", "inet")
    ]
