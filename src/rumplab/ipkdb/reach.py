"""Finds the target's address, and checks that it is in the lab's networks: IPKDB isn't safe on other ones."""

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
    """The address and port of the text IP[:PORT]. ValueError for other text, also for host names: `check` must see the
    address that is used."""
    found = PLACE.fullmatch(text)
    port = int(found["port"] or PORT) if found else 0
    if not found or not 1 <= port <= ports.LAST_PORT:
        raise ValueError(f"'{text}' is not IP or IP:PORT, an IPv4 address and a UDP port")
    return IPv4Address(found["host"]), port


def lab_here() -> Lab | None:
    """This host's lab; None when there is none, since a target with a given address needs no lab."""
    try:
        return config.load()
    except NotProvisioned:
        return None


def networks(lab: Lab | None) -> list[IPv4Network]:
    """The networks of the lab's guests: loopback for user networks, and the lab's bridge if it has one."""
    found = [LOOPBACK]
    if lab is not None:
        with contextlib.suppress(NotProvisioned):
            found.append(settings.load(lab).network)
    return found


def check(address: IPv4Address, allowed: list[IPv4Network], consent: bool) -> None:
    """RumplabError when `address` is outside the networks `allowed`, unless with the user's `consent`."""
    if consent or any(address in network for network in allowed):
        return
    # Each card of a machine has its own user network; their addresses are consecutive.
    if 0 <= int(address) - int(nics.NETWORK.network_address) < nics.MOST * nics.NETWORK.num_addresses:
        raise RumplabError(
            f"{address} is inside QEMU's user network, which the host can't reach; run the machine with"
            f" --forward udp:{PORT}:{PORT} and use --target 127.0.0.1:{PORT}"
        )
    raise RumplabError(
        f"{address} is outside the lab ({', '.join(map(str, allowed))}). IPKDB doesn't encrypt, and its key gives full"
        " control of the kernel; to use this address anyway, add --i-know"
    )


def place_of(machine: Machine, lab: Lab) -> tuple[IPv4Address, int]:
    """The address and UDP port of the machine's IPKDB: a forward on loopback, or its lease on the bridge. RumplabError
    while it has no lease; UsageError when it has neither."""
    for forward in machine.forwards:
        if forward.protocol == "udp" and forward.guest == PORT:
            return IPv4Address("127.0.0.1"), forward.host
    # A card with a fixed slot is IPKDB's.
    addresses = nics.on_bridge(card for card in machine.nics if card.slot) or nics.on_bridge(machine.nics)
    if addresses:
        path = record.directory(lab) / "leases"
        leases = dhcp.read(path, time.time())
        found = [lease for lease in leases if lease.mac in addresses]
        if found:
            # A BOOTP lease never expires (0), so the minimum is IPKDB's. The running system may have a DHCP lease too.
            return IPv4Address(min(found, key=lambda lease: lease.expires).address), PORT
        raise RumplabError(
            f"'{machine.name}' has no lease on the bridge yet; wait for its kernel to ask for one, or give --target"
        )
    raise UsageError(
        f"the IPKDB of '{machine.name}' can't be reached; run it with --forward udp:{PORT}:{PORT}, or with --net bridge"
    )
