"""Reads the current state of the host's network. Changes nothing."""

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
    """One interface: its kind ('' for hardware), its bridge if it is a port (`master`), and its IPv4 addresses."""

    name: str
    kind: str = ""
    mac: str = ""
    master: str = ""
    up: bool = False
    addresses: tuple[IPv4Interface, ...] = ()


@dataclass(frozen=True)
class Route:
    """A route: its destination, its interfaces, and its kind if it isn't a unicast route, such as 'blackhole'."""

    network: IPv4Network
    devices: tuple[str, ...] = ()
    kind: str = ""

    def __str__(self) -> str:
        by = f" by interface {' and '.join(self.devices)}" if self.devices else ""
        return f"the {self.kind + ' ' if self.kind else ''}route to {self.network}{by}"


@dataclass(frozen=True)
class Seen:
    """The state of the host's network. `tables` are the nftables tables with a chain, as 'FAMILY NAME'; None if this
    process isn't root's. `dhcp` is (pid, start token) of the bridge's dnsmasq; None when it doesn't run."""

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
    """The output of a command. RumplabError with its error message when it fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            # An interface's name may contain any byte.
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
    """The interfaces in the output of ``ip -d -j addr show``. RumplabError for unexpected output."""
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
    """The routes, except default routes, in the output of ``ip -j -4 route show``. RumplabError for unexpected
    output."""
    with parsing("what 'ip route' prints"):
        return tuple(
            Route(IPv4Network(typed(item["dst"], str)), devices(item), typed(item.get("type", ""), str))
            for item in json.loads(text or "[]")
            if item["dst"] != "default"
        )


def devices(item: dict[str, Any]) -> tuple[str, ...]:
    """The interfaces of a route: several for a multipath route, none for a blackhole."""
    return tuple(typed(way["dev"], str) for way in (item, *item.get("nexthops", ())) if way.get("dev"))


def parse_chains(text: str) -> list[dict[str, Any]]:
    """The chains in the output of ``nft -j list chains``. RumplabError for unexpected output."""
    with parsing("what 'nft list chains' prints"):
        found = [item["chain"] for item in json.loads(text)["nftables"] if "chain" in item]
        for chain in found:
            for key in ("family", "table"):
                typed(chain[key], str)
    return found


def sysctls(root: Path = IPV4) -> dict[str, str]:
    """The kernel settings that change when routing is turned on: maps paths below /proc/sys/net/ipv4 to current
    values."""
    paths = [root / "ip_forward", root / "conf/all/accept_redirects", *sorted(root.glob("conf/*/forwarding"))]
    return {str(path.relative_to(root)): path.read_text(encoding="ascii").strip() for path in paths}


def daemon(pid_file: Path) -> tuple[int, str] | None:
    """(pid, start token) of the process in `pid_file`; None unless that process was started with this file."""
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
    """The state of this process's network namespace. `ip` and `nft` are the tools' paths; `root` tells whether this
    process is root's, since only root can list nftables."""
    chains = parse_chains(output([nft, "-j", "list", "chains"])) if root else []
    return Seen(
        links=parse_links(output([ip, "-d", "-j", "addr", "show"])),
        routes=parse_routes(output([ip, "-j", "-4", "route", "show"])),
        tables=frozenset(f"{chain['family']} {chain['table']}" for chain in chains) if root else None,
        chains=tuple(chains),
        sysctls=sysctls(),
        dhcp=daemon(pid_file),
    )
