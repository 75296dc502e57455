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
class NicOption:
    """The value of one --nic. With None for `net` or `mac`, --net, --mac or the default decides."""

    model: str = "e1000"
    net: str | None = None
    mac: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--net",
        choices=(*nics.NETWORKS, NONE),
        help="user, the default: QEMU's user network; bridge: the lab's bridge; none: no network card",
    )
    group.add_argument(
        "--forward",
        type=forward,
        action="append",
        default=[],
        metavar="[udp:]HOST:GUEST",
        help="forward port HOST of this host's 127.0.0.1 to port GUEST of the guest; TCP, or UDP with udp: (user"
        " network only; repeatable)",
    )
    group.add_argument(
        "--host-loopback",
        action="store_true",
        help="let a guest on a user network connect to services on this host's 127.0.0.1, and to whatever this host"
        " reaches",
    )
    group.add_argument(
        "--nic",
        type=nic,
        action="append",
        default=[],
        metavar="MODEL[,net=NETWORK][,mac=MAC]",
        help=f"add a network card: {', '.join(nics.MODELS)} (default: one e1000; repeatable)",
    )
    group.add_argument("--mac", type=mac, help=f"MAC address of the first card (default: {macs.DEFAULT})")
    group.add_argument("--no-pci-bridge", action="store_true", help="put the cards on PCI bus 0, without a PCI bridge")
    group.add_argument(
        "--vmnet",
        choices=VMNET_MODES,
        help="macOS: the vmnet mode of --net bridge (default: shared, which also reaches outside networks)",
    )


def forward(text: str) -> Forward:
    """Parses [tcp:|udp:]HOST:GUEST."""
    found = FORWARD.fullmatch(text)
    if not found or not all(1 <= int(found[side]) <= ports.LAST_PORT for side in ("host", "guest")):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a forward; use HOST:GUEST or udp:HOST:GUEST, ports from 1 to {ports.LAST_PORT}"
        )
    return Forward(found["protocol"] or "tcp", int(found["host"]), int(found["guest"]))


def nic(text: str) -> NicOption:
    """Parses MODEL[,net=NETWORK][,mac=MAC]."""
    model, *settings = text.split(",")
    if model not in nics.MODELS:
        raise argparse.ArgumentTypeError(f"'{model}' is not a card; use one of {', '.join(nics.MODELS)}")
    option = NicOption(model)
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "net" and option.net is None and value in nics.NETWORKS:
            option = replace(option, net=value)
        elif key == "mac" and option.mac is None:
            option = replace(option, mac=mac(value))
        else:
            raise argparse.ArgumentTypeError(
                f"'{setting}' in '{text}' is not a setting; use net={' or net='.join(nics.NETWORKS)},"
                " and mac=ADDRESS, once each"
            )
    return option


def cards(args: argparse.Namespace, platform: str, model: str = NicOption.model) -> tuple[Nic, ...]:
    """Returns the cards that the command line asks for. Without --nic, it is one card of `model`. UsageError for
    options that contradict each other.

    A card on the bridge whose address no option gives has an empty `mac`: Machines.claim chooses one that no running
    machine has.
    """
    if args.net == NONE:
        refuse_without_card(args)
        return ()
    options = args.nic or [NicOption(model)]
    if args.mac and options[0].mac:
        raise UsageError("--mac and the first --nic both give an address; use one of them")
    if len(options) > nics.MOST:
        raise UsageError(f"a machine takes {nics.MOST} network cards, not {len(options)}; leave out a --nic")
    options[0] = replace(options[0], mac=args.mac or options[0].mac)
    found = [make(option, number, args.net or nics.USER) for number, option in enumerate(options)]
    refuse_shared_macs(found)
    if args.vmnet and platform != "darwin":
        raise UsageError("--vmnet is for macOS; on this host './provision --tags bridge' sets the lab's bridge up")
    if args.vmnet and not any(card.net == nics.BRIDGE for card in found):
        raise UsageError("--vmnet goes with --net bridge; add that, or leave --vmnet out")
    if args.host_loopback:
        if all(card.net != nics.USER for card in found):
            raise UsageError(
                "--host-loopback is for a user network; on the bridge, the firewall's rules say what a guest reaches"
            )
        found = [replace(card, open=card.net == nics.USER) for card in found]
    return tuple(with_forwards(found, args.forward))


def warn(found: Sequence[Nic]) -> None:
    """Prints a warning on standard error for each UDP forward that lets the guest reach the host's loopback."""
    keys = [item.key for item in nics.opened_by_udp(found)]
    if keys:
        print(
            f"rumplab: the forward of {', '.join(keys)} lets the guest reach this host's 127.0.0.1 too, since QEMU"
            " forwards no UDP to a guest with restrict=on; to hide this warning, add --host-loopback",
            file=sys.stderr,
        )


def make(option: NicOption, number: int, network: str) -> Nic:
    """Returns card `number`, counted from 0. `network` is the value of --net."""
    net = option.net or network
    unset = "" if net == nics.BRIDGE else macs.next_after(macs.DEFAULT, number)
    return Nic(option.model, net, option.mac or unset)


def refuse_without_card(args: argparse.Namespace) -> None:
    """Raises UsageError for an option that needs a card, which --net none excludes."""
    for option in ("nic", "mac", "forward", "vmnet", "host_loopback"):
        if getattr(args, option):
            name = f"--{option.replace('_', '-')}"
            raise UsageError(f"--net none leaves no network card for {name}; leave one of the two out")


def refuse_shared_macs(found: Sequence[Nic]) -> None:
    """Raises UsageError if two cards have the same address."""
    seen: set[str] = set()
    for card in found:
        if card.mac in seen:
            raise UsageError(f"two network cards have the address {card.mac}; give one of them another with mac=")
        seen |= {card.mac} - {""}


def with_forwards(found: Sequence[Nic], forwards: Sequence[Forward]) -> list[Nic]:
    """Returns `found` with `forwards` added to the first card on a user network. UsageError if there is no such card,
    or if two forwards have the same port of the host."""
    keys = [item.key for item in forwards]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise UsageError(f"port {twice} is forwarded twice; use each port of the host once")
    at = next((number for number, card in enumerate(found) if card.net == nics.USER), None)
    if at is None and forwards:
        raise UsageError("--forward is for a user network; on the bridge, reach the guest by its own address")
    return [replace(card, forwards=tuple(forwards)) if number == at else card for number, card in enumerate(found)]
