"""The lab's nftables table. It is its own: no other table is ever changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rumplab.network.settings import Settings

TABLE = "inet rumplab"


def ruleset(settings: Settings) -> str:
    """The script for ``nft -f``, which the kernel takes whole or not at all.

    Guests reach each other and the host. Nothing outside can start a connection to a guest, and without NAT
    nothing is forwarded either way, even on a host that routes for others.
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
    """The script for ``nft -f`` that takes the table away, and does nothing where there is none."""
    return f"add table {TABLE}\ndelete table {TABLE}\n"


def chain(name: str, hook: str, rules: Iterable[str]) -> str:
    body = "".join(f"\t\t{line}\n" for line in [hook, *rules])
    return f"\tchain {name} {{\n{body}\t}}\n"


def dropping(chains: Iterable[dict[str, Any]]) -> list[str]:
    """Others' base chains that by default drop what is forwarded, each as 'FAMILY TABLE CHAIN'."""
    return [
        f"{item['family']} {item['table']} {item['name']}"
        for item in chains
        if item.get("hook") == "forward"
        and item.get("policy") == "drop"
        and f"{item['family']} {item['table']}" != TABLE
        and item["family"] in ("ip", "inet")
    ]
