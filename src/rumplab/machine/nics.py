"""Network cards and their networks, and QEMU's options for them. This module starts no program."""

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
# The slot that QEMU's pc gives the first network card when there is a VGA card. It stays the same without a VGA card,
# for kernels that are told the slot of a card.
FIRST_SLOT = 3
MODELS = {"e1000": "e1000", "virtio": "virtio-net-pci", "ne2k_pci": "ne2k_pci", "rtl8139": "rtl8139"}
# With a timer of the guest's clock, a virtio card sends its packets after the same instruction in each replay. By
# default, it sends them in a bottom half, which is the likely reason why some replays of a used card hung.
TIMED = {"virtio": ",tx=timer"}
USER = "user"
BRIDGE = "bridge"
NETWORKS = (USER, BRIDGE)
NETWORK = ipaddress.IPv4Network("192.168.76.0/24")
FIRST_GUEST = 9
# The most cards of a machine. Each has a slot on the PCI bridge; each one on a user network has its own subnet.
MOST = 8


@dataclass(frozen=True)
class Forward:
    """Forwards the port `host` of 127.0.0.1 to the port `guest` of the guest. `protocol` is tcp or udp."""

    protocol: str
    host: int
    guest: int

    @property
    def key(self) -> str:
        """The host's end, PROTOCOL:PORT, which only one forward can have."""
        return f"{self.protocol}:{self.host}"

    @property
    def rule(self) -> str:
        """The value of QEMU's hostfwd. It names no guest address: QEMU then takes the first one of its DHCP server."""
        return f"{self.protocol}:127.0.0.1:{self.host}-:{self.guest}"


@dataclass(frozen=True)
class Nic:
    """A card of one of MODELS on one of NETWORKS. `mac` is empty until an address is chosen.

    `slot` is the card's slot on the board's own PCI bus; 0 means any free slot. `open` lets the guest on a user network
    reach the host's loopback interface and all that the host reaches.
    """

    model: str = "e1000"
    net: str = USER
    mac: str = macs.DEFAULT
    forwards: tuple[Forward, ...] = ()
    slot: int = 0
    open: bool = False

    @property
    def restricted(self) -> bool:
        """Whether the card gets QEMU's restrict=on. A card with a UDP forward doesn't: with restrict=on, QEMU drops the
        guest's answers to forwarded UDP packets."""
        return self.net == USER and not self.open and all(item.protocol != "udp" for item in self.forwards)


@dataclass(frozen=True)
class Link:
    """How QEMU connects cards to the bridge.

    `kind` is the kind of -netdev and `options` its options, each with a comma before it. `spawns` says that QEMU runs a
    program for it. If `taps` has descriptors, each card uses one of them, an open tap device that QEMU inherits.
    """

    kind: str
    options: str = ""
    spawns: bool = False
    taps: tuple[int, ...] = ()

    def netdev(self, number: int, at: int) -> str:
        """Returns the value of -netdev for card `number`. The card has the index `at` among those on the bridge."""
        if self.taps:
            return f"tap,id=net{number},fd={self.taps[at]}"
        return f"{self.kind},id=net{number}{self.options}"


def helper_link(bridge: str, helper: str) -> Link:
    """Returns the link through qemu-bridge-helper, which QEMU runs."""
    # If the value contains a blank, QEMU runs it with a shell; otherwise it executes the value as a path.
    command = shlex.quote(helper) if any(blank in helper for blank in " \t") else helper
    return Link("bridge", f",br={bridge},helper={command.replace(',', ',,')}", spawns=True)


def vmnet_link(mode: str) -> Link:
    """Returns the link through macOS's vmnet; `mode` is shared or host."""
    return Link(f"vmnet-{mode}")


def with_macs(cards: Sequence[Nic], seed: str, used: Collection[str]) -> tuple[Nic, ...]:
    """Returns `cards` with an address chosen for each card that has none. It is not in `used`, the addresses of other
    machines."""
    result: list[Nic] = []
    for number, card in enumerate(cards):
        taken = {*used, *(other.mac for other in (*cards, *result))}
        result.append(card if card.mac else replace(card, mac=macs.choose(f"{seed} {number}", taken)))
    return tuple(result)


def on_bridge(cards: Iterable[Nic]) -> list[str]:
    """Returns the addresses of the cards on the bridge, without those that are not chosen yet."""
    return [card.mac for card in cards if card.net == BRIDGE and card.mac]


def from_data(data: Iterable[dict[str, Any]]) -> tuple[Nic, ...]:
    """Returns the cards from `data`, which dataclasses.asdict made. Ignores keys that a newer tool added. ValueError or
    TypeError if an item describes no card."""
    known = {item.name for item in fields(Nic)} - {"forwards"}
    data = list(data)
    for item in data:
        if item.get("model", "e1000") not in MODELS or item.get("net", USER) not in NETWORKS:
            raise ValueError(f"unknown network card: {item}")
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


def argv(cards: Sequence[Nic], link: Link | None, pci_bridge: bool, logged: bool = False) -> list[str]:
    """Returns QEMU's options for all cards. With `logged`, QEMU records or replays the run. ValueError if a card is on
    the bridge and `link` is None."""
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
        timed = TIMED.get(card.model, "") if logged else ""
        words += ["-device", f"{MODELS[card.model]},netdev=net{number},mac={card.mac},{place}{timed}"]
    # Without any -nic or -netdev, QEMU adds a default card.
    return words if cards else [*words, "-nic", "none"]


def logged(cards: Sequence[Nic]) -> list[str]:
    """Returns the options by which QEMU records the packets that `cards` receive, or replays them."""
    return [
        word
        for number in range(len(cards))
        for word in ("-object", f"filter-replay,id=replay{number},netdev=net{number}")
    ]


def board(slot: int) -> str:
    """Returns the options of -device for a slot on the board's own bus. QEMU reads the slot as hexadecimal."""
    return f"bus={BOARD_BUS},addr={slot:x}"


def user_netdev(card: Nic, number: int) -> str:
    """Returns the value of -netdev for card `number` on a user network. The id is ``netNUMBER``."""
    subnet = ipaddress.IPv4Network((int(NETWORK.network_address) + (number << 8), NETWORK.prefixlen))
    rules = "".join(f",hostfwd={forward.rule}" for forward in card.forwards)
    # QEMU has one option for both: the guest reaches the host's loopback and the networks beyond, or only the forwards.
    kept = ",restrict=on" if card.restricted else ""
    return f"user,id=net{number},net={subnet},dhcpstart={subnet[FIRST_GUEST]}{kept}{rules}"


def opened_by_udp(cards: Iterable[Nic]) -> list[Forward]:
    """Returns the UDP forwards because of which a card has no restrict=on, although the user didn't ask for `open`."""
    return [
        item
        for card in cards
        if card.net == USER and not card.open and not card.restricted
        for item in card.forwards
        if item.protocol == "udp"
    ]
