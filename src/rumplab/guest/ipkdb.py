"""A guest whose kernel is debugged by IPKDB: the network card that the kernel reserves for it, and whether the kernel
waits in IPKDB.

The card's PCI slot is compiled into the kernel. ``ipkdb.json`` beside this module defines the slot for the tool and for
role ipkdb, which builds that kernel.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from rumplab.errors import NotProvisioned, RumplabError, UsageError
from rumplab.guest import lines
from rumplab.guest.definition import IPKDB, NETBSD, Guest
from rumplab.host import holders, ports
from rumplab.host.process import own_command
from rumplab.ipkdb import console_messages
from rumplab.lab.config import Lab
from rumplab.machine import macs, nics
from rumplab.machine.nics import Forward, Nic
from rumplab.machine.registry import Machine

ARCH = "i386"
MODEL = "ne2k_pci"
POLL_SECONDS = 0.05
# Seconds to wait for the answer to the opening request. A waiting kernel answers at once. A kernel that was debugged
# before may run again and not answer.
PATIENCE = 30
PATIENCE_AGAIN = 5


def slot() -> int:
    """The card's slot on the board's PCI bus: the kernel option IPKDB_NE_PCISLOT."""
    path = Path(__file__).with_name("ipkdb.json")
    return int(json.loads(path.read_text(encoding="ascii"))["slot"])


def check(guest: Guest) -> None:
    """UsageError for a guest that can't be debugged by IPKDB."""
    if guest.kind != NETBSD or guest.arch != ARCH:
        raise UsageError(
            f"{guest.name} is {guest.kind}/{guest.arch}, and IPKDB is NetBSD's, on PCs for {ARCH} only; make a guest"
            f" with --arch {ARCH}"
        )
    if guest.kernel is None and guest.config is None:
        raise UsageError(
            f"the kernel of {guest.name} has kgdb, not IPKDB; make a guest with --config {IPKDB}, or use --kgdb"
        )
    if len(guest.nics) >= nics.MOST:
        raise UsageError(
            f"{guest.name} has {len(guest.nics)} network cards, and IPKDB needs one more; make a guest with fewer --net"
        )


def with_card(guest: Guest, net: str | None, port: int | None, taken: Collection[int]) -> Guest:
    """`guest` with the card for IPKDB.

    The card is on `net`. If `net` is None, it is on the bridge when another card is, else on a user network. On a user
    network, `port` of 127.0.0.1 is forwarded to IPKDB; without `port`, a free one that is not in `taken`. UsageError
    for a port on the bridge.
    """
    net = net or (nics.BRIDGE if any(card.net == nics.BRIDGE for card in guest.nics) else nics.USER)
    # These imports are here and below, not at the top, because other guests don't need them and they take time.
    from rumplab.ipkdb.packet import PORT

    if net == nics.BRIDGE:
        if port is not None:
            raise UsageError("--ipkdb-port is for a user network; on the bridge, the kernel is reached by its address")
        return replace(guest, nics=(*guest.nics, Nic(MODEL, net, "", slot=slot())))
    forward = Forward("udp", port or ports.free(taken, "udp"), PORT)
    mac = macs.next_after(macs.DEFAULT, len(guest.nics))
    return replace(guest, nics=(*guest.nics, Nic(MODEL, net, mac, (forward,), slot())))


def waits(machine: Machine) -> bool:
    """Whether the kernel is in IPKDB, judged by its console: the message that it waits is the last output."""
    return console_messages.waits(console_messages.tail(machine.serial_log))


def place(machine: Machine, lab: Lab) -> tuple[IPv4Address, int] | None:
    """The address and UDP port of the machine's IPKDB; None while it has no address on the bridge."""
    from rumplab.ipkdb import reach

    try:
        return reach.place_of(machine, lab)
    except (RumplabError, NotProvisioned):
        return None


def debugger(machine: Machine, lab: Lab) -> str | None:
    """The process that debugs the kernel, as ``NAME, pid N``; None when there is none."""
    found = place(machine, lab)
    return holders.of_peer(str(found[0]), found[1]) if found else None


def until_waiting(machine: Machine, lab: Lab, seconds: float) -> None:
    """Waits until the kernel is in IPKDB and has an address. RumplabError after `seconds`, when the machine has ended,
    or when the console tells that IPKDB can't start."""
    deadline = time.monotonic() + seconds
    while True:
        said = console_messages.meaning(machine.serial_log)
        if said and said not in (console_messages.WAITS, console_messages.WENT_ON):
            raise RumplabError(f"{machine.name} can't be debugged by IPKDB: {said}")
        # On the bridge, place() is None until dnsmasq has recorded the lease of the kernel's address.
        if said and addressed(machine) and place(machine, lab):
            return
        if not machine.alive():
            raise RumplabError(f"{machine.name} has ended; read its console with: rumplab logs {machine.name}")
        if time.monotonic() >= deadline:
            lacking = "has no address yet" if said else "is not in IPKDB"
            raise RumplabError(
                f"the kernel of {machine.name} {lacking} {seconds:.0f} s after it was asked to wait there; look at its"
                f" console: rumplab logs {machine.name}"
            )
        time.sleep(POLL_SECONDS)


def addressed(machine: Machine) -> bool:
    """Whether the kernel has printed its address on the console."""
    return console_messages.WAITING[1] in console_messages.tail(machine.serial_log)


def bridge_argv(machine: Machine, key_file: str | None) -> list[str]:
    """The command of the translator, for GDB's ``target remote |``."""
    key = ["--key-file", key_file] if key_file else []
    again = lines.lock_path(machine, IPKDB).exists() and not waits(machine)
    patience = str(PATIENCE_AGAIN if again else PATIENCE)
    return own_command("ipkdb", "connect", machine.name, "--stdio", "--timeout", patience, *key)


def refuse_interrupt(machine: Machine) -> None:
    """RumplabError for a guest that was started with IPKDB: nothing outside can stop a kernel in IPKDB."""
    if machine.guest == IPKDB:
        raise RumplabError(
            f"{machine.name} is debugged by IPKDB, which doesn't listen while the kernel runs: it stops at a"
            f" breakpoint, or in a panic; to stop it at once, use: rumplab guest debug {machine.name} --qemu-stub"
        )
