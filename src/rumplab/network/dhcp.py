"""dnsmasq for the guests on the bridge, separate from any other dnsmasq of the host."""

from __future__ import annotations

import ipaddress
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from rumplab.network.settings import Settings

DOMAIN = "rumplab"
LEASE_TIME = "1h"
# ASCII digits only, and no more of them than a 64-bit number has.
SECONDS = re.compile("[0-9]{1,19}")


@dataclass(frozen=True)
class Lease:
    """One guest's address. `expires` is UNIX time in seconds; `name` is '' when the guest sent none."""

    expires: int
    mac: str
    address: str
    name: str


def account() -> str:
    """The unprivileged account to which dnsmasq switches after it has opened its sockets."""
    try:
        return pwd.getpwnam("dnsmasq").pw_name
    except KeyError:
        return "nobody"


def argv(dnsmasq: str, settings: Settings, directory: Path, user: str) -> list[str]:
    """The command line of dnsmasq. All of its files are in `directory`, and it reads no configuration of the host.

    Without NAT the guests get no default route, and dnsmasq answers only names of the lab: forwarded queries would let
    a guest send data out of the lab.
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
        # A kernel that waits in IPKDB uses BOOTP, whose leases don't expire; `net down` removes them.
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
    """The files that dnsmasq writes in `directory`."""
    return tuple(directory / name for name in ("dnsmasq.pid", "leases", "dnsmasq.log"))


def read(path: Path, now: float) -> list[Lease]:
    """The leases in the file `path`; empty when the file doesn't exist. See `leases`."""
    # A guest chooses the name in its lease, so any bytes may be in the file.
    return leases(path.read_text(encoding="utf-8", errors="replace"), now) if path.exists() else []


def leases(text: str, now: float) -> list[Lease]:
    """The leases in the text of a dnsmasq lease file that are valid at `now` (UNIX time in seconds)."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 4 or not SECONDS.fullmatch(fields[0]) or not is_ipv4(fields[2]):
            continue
        lease = Lease(int(fields[0]), fields[1], fields[2], "" if fields[3] == "*" else fields[3])
        # An expiry of 0 means that the lease never expires.
        if lease.expires == 0 or lease.expires > now:
            found.append(lease)
    return found


def is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
