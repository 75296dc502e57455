"""What the host's network is at this moment. Everything here only looks."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError
from rumplab.host import child_environment, process
from rumplab.host.answers import parsing, typed

SECONDS = 5
IPV4 = Path("/proc/sys/net/ipv4")


@dataclass(frozen=True)
class Link:
    """One interface: its kind ('' for hardware), the bridge it is a port of, and its IPv4 addresses."""

    name: str
    kind: str = ""
    mac: str = ""
    master: str = ""
    up: bool = False
    addresses: tuple[IPv4Interface, ...] = ()


@dataclass(frozen=True)
class Route:
    """A route: where to, by which interfaces, and its kind where it isn't an ordinary one, as 'blackhole'."""

    network: IPv4Network
    devices: tuple[str, ...] = ()
    kind: str = ""

    def __str__(self) -> str:
        by = f" by interface {' and '.join(self.devices)}" if self.devices else ""
        return f"the {self.kind + ' ' if self.kind else ''}route to {self.network}{by}"


@dataclass(frozen=True)
class Seen:
    """A look at the host. `tables` are those with a chain, as 'FAMILY NAME', or None where only root may see
    them. `dhcp` is dnsmasq's (pid, token)."""

    links: tuple[Link, ...] = ()
    routes: tuple[Route, ...] = ()
    tables: frozenset[str] | None = frozenset()
    chains: tuple[dict[str, Any], ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    dhcp: tuple[int, str] | None = None

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)

    def ports(self, bridge: str) -> list[Link]:
        return [link for link in self.links if link.master == bridge]


def output(argv: list[str]) -> str:
    """What a command prints; RumplabError with its own words when it fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            # The name of an interface can hold any byte.
            encoding="utf-8",
            errors="surrogateescape",
            env=child_environment.of(child_environment.TOOL),
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RumplabError(f"{' '.join(argv)} did not answer within {SECONDS} s; try again") from None
    if done.returncode:
        raise RumplabError(f"{' '.join(argv)}: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout


def parse_links(text: str) -> tuple[Link, ...]:
    """The interfaces in the output of ``ip -d -j addr show``. RumplabError where that is something else."""
    with parsing("what 'ip addr' prints"):
        return tuple(
            Link(
                name=typed(item["ifname"], str),
                kind=typed(item.get("linkinfo", {}).get("info_kind", ""), str),
                mac=typed(item.get("address", ""), str),
                master=typed(item.get("master", ""), str),
                up="UP" in item.get("flags", []),
                addresses=tuple(
                    IPv4Interface(f"{address['local']}/{address['prefixlen']}")
                    for address in item.get("addr_info", [])
                    if address.get("family") == "inet"
                ),
            )
            for item in json.loads(text or "[]")
            if item.get("ifname")
        )


def parse_routes(text: str) -> tuple[Route, ...]:
    """Each route but the default ones, from ``ip -j -4 route show``. RumplabError where that is something else."""
    with parsing("what 'ip route' prints"):
        return tuple(
            Route(IPv4Network(typed(item["dst"], str)), devices(item), typed(item.get("type", ""), str))
            for item in json.loads(text or "[]")
            if item["dst"] != "default"
        )


def devices(item: dict[str, Any]) -> tuple[str, ...]:
    """The interfaces that a route leads to: several where it has several ways, none where it leads nowhere."""
    return tuple(typed(way["dev"], str) for way in (item, *item.get("nexthops", ())) if way.get("dev"))


def parse_chains(text: str) -> list[dict[str, Any]]:
    """The chains in the output of ``nft -j list chains``. RumplabError where that is something else."""
    with parsing("what 'nft list chains' prints"):
        found = [item["chain"] for item in json.loads(text)["nftables"] if "chain" in item]
        for chain in found:
            for key in ("family", "table"):
                typed(chain[key], str)
    return found


def sysctls(root: Path = IPV4) -> dict[str, str]:
    """What turning routing on changes, by path below /proc/sys/net/ipv4, with the values of now."""
    paths = [root / "ip_forward", root / "conf/all/accept_redirects", *sorted(root.glob("conf/*/forwarding"))]
    return {str(path.relative_to(root)): path.read_text(encoding="ascii").strip() for path in paths}


def daemon(pid_file: Path) -> tuple[int, str] | None:
    """(pid, token) of the process that `pid_file` names, if it is still the one started with that file."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    token = process.started(pid)
    if token is None or f"--pid-file={pid_file}".encode() not in argv:
        return None
    return pid, token


def look(ip: str, nft: str, pid_file: Path, root: bool) -> Seen:
    """Looks at the network namespace of this process. `ip` and `nft` are the tools' paths."""
    chains = parse_chains(output([nft, "-j", "list", "chains"])) if root else []
    return Seen(
        links=parse_links(output([ip, "-d", "-j", "addr", "show"])),
        routes=parse_routes(output([ip, "-j", "-4", "route", "show"])),
        tables=frozenset(f"{chain['family']} {chain['table']}" for chain in chains) if root else None,
        chains=tuple(chains),
        sysctls=sysctls(),
        dhcp=daemon(pid_file),
    )
