"""dnsmasq for the guests of the bridge, apart from any other dnsmasq of the host."""

from __future__ import annotations

import ipaddress
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from rumplab.network.settings import Settings

DOMAIN = "rumplab"
LEASE_TIME = "1h"
# No other digits than ASCII's, and no more than a number of seconds has.
SECONDS = re.compile("[0-9]{1,19}")


@dataclass(frozen=True)
class Lease:
    """One address that a guest has. `expires` is UNIX time; `name` is '' when the guest gave none."""

    expires: int
    mac: str
    address: str
    name: str


def account() -> str:
    """The unprivileged account that dnsmasq runs as once its sockets are open."""
    try:
        return pwd.getpwnam("dnsmasq").pw_name
    except KeyError:
        return "nobody"


def argv(dnsmasq: str, settings: Settings, directory: Path, user: str) -> list[str]:
    """The command. All of its files are in `directory`, and it reads no configuration of the host.

    Without NAT the guests get no default route, and names are answered for the lab only: a forwarded question
    would be a way out.
    """
    command = [
        dnsmasq,
        "--conf-file=/dev/null",
        f"--pid-file={directory / 'dnsmasq.pid'}",
        f"--dhcp-leasefile={directory / 'leases'}",
        f"--log-facility={directory / 'dnsmasq.log'}",
        f"--user={user}",
        f"--interface={settings.bridge}",
        "--bind-interfaces",
        "--except-interface=lo",
        f"--dhcp-range={settings.first},{settings.last},{settings.network.netmask},{LEASE_TIME}",
        f"--dhcp-lease-max={settings.leases}",
        "--dhcp-authoritative",
        # A kernel that waits in IPKDB asks by BOOTP, which knows no end of a lease: `net down` is the end.
        "--bootp-dynamic",
        "--no-hosts",
        f"--domain={DOMAIN}",
        f"--local=/{DOMAIN}/",
        f"--host-record=host.{DOMAIN},{settings.address.ip}",
    ]
    if not settings.nat:
        command += ["--no-resolv", "--dhcp-option=option:router"]
    return command


def files(directory: Path) -> tuple[Path, ...]:
    """What dnsmasq leaves in `directory`."""
    return tuple(directory / name for name in ("dnsmasq.pid", "leases", "dnsmasq.log"))


def read(path: Path, now: float) -> list[Lease]:
    """The leases in the file `path`, none where there is no such file; see `leases`."""
    # A guest gives its name itself.
    return leases(path.read_text(encoding="utf-8", errors="replace"), now) if path.exists() else []


def leases(text: str, now: float) -> list[Lease]:
    """The leases in a dnsmasq lease file that still hold at `now`, UNIX time."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 4 or not SECONDS.fullmatch(fields[0]) or not is_ipv4(fields[2]):
            continue
        lease = Lease(int(fields[0]), fields[1], fields[2], "" if fields[3] == "*" else fields[3])
        # An expiry of 0 is one that never comes.
        if lease.expires == 0 or lease.expires > now:
            found.append(lease)
    return found


def is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
