"""The options of ``rumplab run`` that say which network cards a machine has."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rumplab.cli.arguments import mac
from rumplab.errors import UsageError
from rumplab.host import ports
from rumplab.machine import macs, nics
from rumplab.machine.nics import Forward, Nic

NONE = "none"
VMNET_MODES = ("shared", "host")
FORWARD = re.compile(r"(?:(?P<protocol>tcp|udp):)?(?P<host>[0-9]{1,5}):(?P<guest>[0-9]{1,5})", re.ASCII)


@dataclass(frozen=True)
class Wish:
    """A --nic as it was given; None where it leaves something to --net and --mac."""

    model: str = "e1000"
    net: str | None = None
    mac: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--net",
        choices=(*nics.NETWORKS, NONE),
        help="user, the default: QEMU's own; bridge: the lab's; none: no network card",
    )
    group.add_argument(
        "--forward",
        type=forward,
        action="append",
        default=[],
        metavar="[udp:]HOST:GUEST",
        help="lead port HOST of 127.0.0.1 to the guest's port GUEST (user network; repeatable)",
    )
    group.add_argument(
        "--host-loopback",
        action="store_true",
        help="let the guest on a user network reach 127.0.0.1 of this host, and what this host reaches",
    )
    group.add_argument(
        "--nic",
        type=nic,
        action="append",
        default=[],
        metavar="MODEL[,net=NETWORK][,mac=MAC]",
        help=f"a network card: {', '.join(nics.MODELS)} (default: one e1000; repeatable)",
    )
    group.add_argument("--mac", type=mac, help=f"the first card's address (default: {macs.DEFAULT})")
    group.add_argument(
        "--no-pci-bridge", action="store_true", help="the cards on the board's own PCI bus, without a bridge"
    )
    group.add_argument(
        "--vmnet", choices=VMNET_MODES, help="macOS: what --net bridge means (default: shared, which reaches out)"
    )


def forward(text: str) -> Forward:
    """[tcp:|udp:]HOST:GUEST."""
    found = FORWARD.fullmatch(text)
    if not found or not all(1 <= int(found[side]) <= ports.LAST_PORT for side in ("host", "guest")):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a forward; use HOST:GUEST or udp:HOST:GUEST, ports from 1 to {ports.LAST_PORT}"
        )
    return Forward(found["protocol"] or "tcp", int(found["host"]), int(found["guest"]))


def nic(text: str) -> Wish:
    """MODEL[,net=NETWORK][,mac=MAC]."""
    model, *settings = text.split(",")
    if model not in nics.MODELS:
        raise argparse.ArgumentTypeError(f"'{model}' is not a card; use one of {', '.join(nics.MODELS)}")
    wish = Wish(model)
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "net" and wish.net is None and value in nics.NETWORKS:
            wish = replace(wish, net=value)
        elif key == "mac" and wish.mac is None:
            wish = replace(wish, mac=mac(value))
        else:
            raise argparse.ArgumentTypeError(
                f"'{setting}' in '{text}' is not a setting; use net={' or net='.join(nics.NETWORKS)},"
                " and mac=ADDRESS, once each"
            )
    return wish


def cards(args: argparse.Namespace, platform: str, model: str = Wish.model) -> tuple[Nic, ...]:
    """The cards that the command line asks for, one of `model` where it doesn't say. UsageError for contradictions.

    A card on the bridge has no address yet if none is given: it depends on the machines that run.
    """
    if args.net == NONE:
        refuse_without_card(args)
        return ()
    wishes = args.nic or [Wish(model)]
    if args.mac and wishes[0].mac:
        raise UsageError("--mac and the first --nic both give an address; use one of them")
    if len(wishes) > nics.MOST:
        raise UsageError(f"there is room for {nics.MOST} network cards, not for {len(wishes)}")
    wishes[0] = replace(wishes[0], mac=args.mac or wishes[0].mac)
    found = [make(wish, number, args.net or nics.USER) for number, wish in enumerate(wishes)]
    refuse_shared_macs(found)
    if args.vmnet and platform != "darwin":
        raise UsageError("--vmnet is for macOS; here the lab's bridge is set up by './provision --tags bridge'")
    if args.vmnet and not any(card.net == nics.BRIDGE for card in found):
        raise UsageError("--vmnet goes with --net bridge")
    if args.host_loopback:
        if all(card.net != nics.USER for card in found):
            raise UsageError("--host-loopback is for a user network; a guest on the bridge is kept in by its rules")
        found = [replace(card, open=card.net == nics.USER) for card in found]
    return tuple(with_forwards(found, args.forward))


def warn(found: Sequence[Nic]) -> None:
    """Says on standard error what a forward opens."""
    keys = [item.key for item in nics.opened_by_udp(found)]
    if keys:
        print(
            f"rumplab: for the forward of {', '.join(keys)} the guest can reach this host's 127.0.0.1 too: QEMU"
            " forwards UDP to no guest that it keeps in; --host-loopback says that you know",
            file=sys.stderr,
        )


def make(wish: Wish, number: int, network: str) -> Nic:
    net = wish.net or network
    unset = "" if net == nics.BRIDGE else macs.next_after(macs.DEFAULT, number)
    return Nic(wish.model, net, wish.mac or unset)


def refuse_without_card(args: argparse.Namespace) -> None:
    """UsageError for an option that needs a card, when --net none has taken it away."""
    for option in ("nic", "mac", "forward", "vmnet", "host_loopback"):
        if getattr(args, option):
            raise UsageError(f"--net none leaves no network card for --{option.replace('_', '-')}")


def refuse_shared_macs(found: Sequence[Nic]) -> None:
    seen: set[str] = set()
    for card in found:
        if card.mac in seen:
            raise UsageError(f"two network cards have the address {card.mac}; give one another, by mac=")
        seen |= {card.mac} - {""}


def with_forwards(found: Sequence[Nic], forwards: Sequence[Forward]) -> list[Nic]:
    """`found`, its first card on a user network with the forwards. UsageError when they can't be had."""
    keys = [item.key for item in forwards]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise UsageError(f"port {twice} is forwarded twice; use each port of the host once")
    at = next((number for number, card in enumerate(found) if card.net == nics.USER), None)
    if at is None and forwards:
        raise UsageError("--forward is for a user network; a guest on the bridge is reached by its own address")
    return [replace(card, forwards=tuple(forwards)) if number == at else card for number, card in enumerate(found)]
