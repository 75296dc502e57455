"""Which target is meant, and whether the bridge may talk to it: IPKDB is for lab networks."""

from __future__ import annotations

import contextlib
import re
import time
from ipaddress import IPv4Address, IPv4Network

from rumplab.errors import NotProvisioned, RumplabError, UsageError
from rumplab.host import ports
from rumplab.ipkdb.packet import PORT
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine import nics
from rumplab.machine.registry import Machine
from rumplab.network import dhcp, record, settings

LOOPBACK = IPv4Network("127.0.0.0/8")
PLACE = re.compile(r"(?P<host>[0-9.]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


def parse(text: str) -> tuple[IPv4Address, int]:
    """IP[:PORT]. ValueError otherwise; names aren't looked up, so that an address is what it looks like."""
    found = PLACE.fullmatch(text)
    port = int(found["port"] or PORT) if found else 0
    if not found or not 1 <= port <= ports.LAST_PORT:
        raise ValueError(f"'{text}' is not IP or IP:PORT, an IPv4 address and a UDP port")
    return IPv4Address(found["host"]), port


def lab_here() -> Lab | None:
    """This host's lab; None when it has none, for targets that need none."""
    try:
        return config.load()
    except NotProvisioned:
        return None


def networks(lab: Lab | None) -> list[IPv4Network]:
    """Where the lab's guests are reached: loopback for user networks, and the lab's bridge where it has one."""
    found = [LOOPBACK]
    if lab is not None:
        with contextlib.suppress(NotProvisioned):
            found.append(settings.load(lab).network)
    return found


def check(address: IPv4Address, allowed: list[IPv4Network], consent: bool) -> None:
    """RumplabError when `address` is in none of the networks `allowed` and the user hasn't said `consent`."""
    if consent or any(address in network for network in allowed):
        return
    # Each card of a machine has a user network of its own, one after the other.
    if 0 <= int(address) - int(nics.NETWORK.network_address) < nics.MOST * nics.NETWORK.num_addresses:
        raise RumplabError(
            f"{address} is inside QEMU's user network, where nobody can reach it; run the machine with"
            f" --forward udp:{PORT}:{PORT} and use --target 127.0.0.1:{PORT}"
        )
    raise RumplabError(
        f"{address} is outside the lab ({', '.join(map(str, allowed))}). IPKDB hides nothing from the network, and who"
        " holds the key has the kernel; if you mean it, say --i-know"
    )


def place_of(machine: Machine, lab: Lab) -> tuple[IPv4Address, int]:
    """Where the machine's IPKDB is reached: by a forward, or by its lease on the bridge."""
    for forward in machine.forwards:
        if forward.protocol == "udp" and forward.guest == PORT:
            return IPv4Address("127.0.0.1"), forward.host
    # A card in a slot of its own is IPKDB's.
    addresses = nics.on_bridge(card for card in machine.nics if card.slot) or nics.on_bridge(machine.nics)
    if addresses:
        path = record.directory(lab) / "leases"
        leases = dhcp.read(path, time.time())
        found = [lease for lease in leases if lease.mac in addresses]
        if found:
            # What was given by BOOTP never expires; the system on top of the kernel may have another one by DHCP.
            return IPv4Address(min(found, key=lambda lease: lease.expires).address), PORT
        raise RumplabError(
            f"'{machine.name}' has no lease on the bridge yet; wait for its kernel to ask for one, or give --target"
        )
    raise UsageError(
        f"nothing leads to the IPKDB of '{machine.name}': run it with --forward udp:{PORT}:{PORT}, or with --net bridge"
    )
