"""Network cards and what they are plugged into, as QEMU's command line has them. Nothing here runs anything."""

from __future__ import annotations

import ipaddress
import itertools
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rumplab.host.answers import check_fields
from rumplab.machine import macs

PCI_BRIDGE = "pci.1"
BOARD_BUS = "pci.0"
# Where QEMU's pc has its first card beside a VGA card. Without one it is the same, for kernels that are told a slot.
FIRST_SLOT = 3
MODELS = {"e1000": "e1000", "virtio": "virtio-net-pci", "ne2k_pci": "ne2k_pci", "rtl8139": "rtl8139"}
USER = "user"
BRIDGE = "bridge"
NETWORKS = (USER, BRIDGE)
NETWORK = ipaddress.IPv4Network("192.168.76.0/24")
FIRST_GUEST = 9
# Each has a slot of the PCI bridge and, on user networks, a subnet of its own.
MOST = 8


@dataclass(frozen=True)
class Forward:
    """A port on 127.0.0.1 of the host that leads to one of the guest."""

    protocol: str
    host: int
    guest: int

    @property
    def key(self) -> str:
        """What two forwards can't share, as it stands in a machine's record."""
        return f"{self.protocol}:{self.host}"

    @property
    def rule(self) -> str:
        """QEMU's hostfwd. No guest address means the first that its DHCP server gives out."""
        return f"{self.protocol}:127.0.0.1:{self.host}-:{self.guest}"


@dataclass(frozen=True)
class Nic:
    """A card of one of MODELS on one of NETWORKS. `mac` is empty as long as none has been chosen.

    `slot` is where it must be on the board's own PCI bus; with 0 it goes where there is room. `open` lets the guest
    reach the host's loopback interface over a user network, and with it whatever the host reaches.
    """

    model: str = "e1000"
    net: str = USER
    mac: str = macs.DEFAULT
    forwards: tuple[Forward, ...] = ()
    slot: int = 0
    open: bool = False

    @property
    def restricted(self) -> bool:
        """Whether QEMU keeps the guest in. It forwards no UDP to a guest that is kept in, whose answers it drops."""
        return self.net == USER and not self.open and all(item.protocol != "udp" for item in self.forwards)


@dataclass(frozen=True)
class Link:
    """How cards get on the bridge: the kind of -netdev and its options, each with the comma before it. `spawns` says
    that QEMU runs a program for it. With `taps` each card has one of these instead, open files that QEMU inherits."""

    kind: str
    options: str = ""
    spawns: bool = False
    taps: tuple[int, ...] = ()

    def netdev(self, number: int, at: int) -> str:
        """The value of -netdev for card `number`, the one of index `at` on the bridge."""
        if self.taps:
            return f"tap,id=net{number},fd={self.taps[at]}"
        return f"{self.kind},id=net{number}{self.options}"


def helper_link(bridge: str, helper: str) -> Link:
    """Through qemu-bridge-helper, which QEMU itself runs."""
    # QEMU gives a helper to the shell if there is a blank in it, and runs it as it is otherwise.
    command = shlex.quote(helper) if any(blank in helper for blank in " \t") else helper
    return Link("bridge", f",br={bridge},helper={command.replace(',', ',,')}", spawns=True)


def vmnet_link(mode: str) -> Link:
    """macOS's vmnet; `mode` is shared or host."""
    return Link(f"vmnet-{mode}")


def with_macs(cards: Sequence[Nic], seed: str, used: Collection[str]) -> tuple[Nic, ...]:
    """`cards` with an address for each that has none yet; `used` are those of other machines."""
    result: list[Nic] = []
    for number, card in enumerate(cards):
        taken = {*used, *(other.mac for other in (*cards, *result))}
        result.append(card if card.mac else replace(card, mac=macs.choose(f"{seed} {number}", taken)))
    return tuple(result)


def on_bridge(cards: Iterable[Nic]) -> list[str]:
    """The addresses, where there are any yet, that `cards` have on the bridge."""
    return [card.mac for card in cards if card.net == BRIDGE and card.mac]


def from_data(data: Iterable[dict[str, Any]]) -> tuple[Nic, ...]:
    """Cards from what dataclasses.asdict made of them; what a newer tool may add is left out.
    ValueError or TypeError for what is no card."""
    known = {item.name for item in fields(Nic)} - {"forwards"}
    data = list(data)
    for item in data:
        if item.get("model", "e1000") not in MODELS or item.get("net", USER) not in NETWORKS:
            raise ValueError(f"a network card that isn't known: {item}")
    cards = tuple(
        Nic(
            **{key: value for key, value in item.items() if key in known},
            forwards=tuple(Forward(**forward) for forward in item.get("forwards", ())),
        )
        for item in data
    )
    for one in (*cards, *(forward for card in cards for forward in card.forwards)):
        check_fields(one)
    return cards


def argv(cards: Sequence[Nic], link: Link | None, pci_bridge: bool) -> list[str]:
    """The options for all cards; `link` is needed when one is on the bridge."""
    wanted = {card.slot for card in cards}
    slots = (slot for slot in itertools.count(FIRST_SLOT) if slot not in wanted)
    bridged = itertools.count()
    words: list[str] = []
    if pci_bridge:
        words = ["-device", f"pci-bridge,chassis_nr=2,id={PCI_BRIDGE},{board(next(slots))}"]
    for number, card in enumerate(cards):
        if pci_bridge and not card.slot:
            place = f"bus={PCI_BRIDGE},addr={number + 1:x}"
        else:
            place = board(card.slot or next(slots))
        if card.net == BRIDGE and link is None:
            raise ValueError("a card on the bridge needs a link")
        on_bridge = link.netdev(number, next(bridged)) if link and card.net == BRIDGE else None
        words += ["-netdev", on_bridge or user_netdev(card, number)]
        words += ["-device", f"{MODELS[card.model]},netdev=net{number},mac={card.mac},{place}"]
    # Else QEMU adds a card of its own.
    return words if cards else [*words, "-nic", "none"]


def logged(cards: Sequence[Nic]) -> list[str]:
    """The options that lead what `cards` receive through QEMU's log of the run."""
    return [
        word
        for number in range(len(cards))
        for word in ("-object", f"filter-replay,id=replay{number},netdev=net{number}")
    ]


def board(slot: int) -> str:
    """The options of -device that put a card in a slot of the board's own bus. QEMU reads a slot as hexadecimal."""
    return f"bus={BOARD_BUS},addr={slot:x}"


def user_netdev(card: Nic, number: int) -> str:
    """The value of -netdev for card `number`, whose id is ``netNUMBER``, on a user network."""
    subnet = ipaddress.IPv4Network((int(NETWORK.network_address) + (number << 8), NETWORK.prefixlen))
    rules = "".join(f",hostfwd={forward.rule}" for forward in card.forwards)
    # QEMU has one switch: the guest reaches the host's loopback and all the rest, or nothing but forwards.
    kept = ",restrict=on" if card.restricted else ""
    return f"user,id=net{number},net={subnet},dhcpstart={subnet[FIRST_GUEST]}{kept}{rules}"


def opened_by_udp(cards: Iterable[Nic]) -> list[Forward]:
    """The forwards of `cards` for which QEMU can't keep the guest in, where nobody has asked for that."""
    return [
        item
        for card in cards
        if card.net == USER and not card.open and not card.restricted
        for item in card.forwards
        if item.protocol == "udp"
    ]
