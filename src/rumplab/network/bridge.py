"""The lab's bridge on this host: its current state, and the steps that bring it up or down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.lab.config import Lab
from rumplab.network import dhcp, plan, ports, record, seen, settings
from rumplab.network.plan import Tools
from rumplab.network.record import Record
from rumplab.network.seen import Seen
from rumplab.network.settings import Settings
from rumplab.network.steps import Step, Sysctl

BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def tools_of(lab: Lab, serving: bool = False) -> Tools:
    """The tools of this lab, with dnsmasq only if `serving`. NotProvisioned when the lab has no bridge."""
    directory = record.directory(lab)
    if not record.state_path(directory).exists():
        # For a lab without a bridge, this error is more helpful than that of the missing component.
        settings.find(lab)
    component = lab.component("bridge")
    return Tools(
        ip=component.path("ip"),
        nft=component.path("nft"),
        dnsmasq=component.path("dnsmasq") if serving else "",
        directory=directory,
        user=dhcp.account(),
    )


def require_root(action: str, uid: int) -> None:
    """RumplabError unless `uid` is root's."""
    if uid != 0:
        raise RumplabError(
            f"'net {action}' changes the host's network, which needs root; run: sudo rumplab net {action}"
        )


def look(tools: Tools) -> tuple[Seen, Record | None]:
    """The host's state, and the record of this session's `net up`, if any. RumplabError when the bridge is up in
    another network namespace."""
    found = seen.look(tools.ip, tools.nft, tools.directory / "dnsmasq.pid", os.geteuid() == 0)
    stood = record.read(tools.directory)
    if stood is None or stood.session == record.session():
        return found, stood
    if found.dhcp is not None:
        raise RumplabError(
            f"the bridge is up in another network namespace (dnsmasq, pid {found.dhcp[0]}); bring it down there"
        )
    # The record is from an earlier boot or a container that has ended, so everything in it is gone.
    return found, None


def carry_out(steps: Sequence[Step]) -> None:
    for step in steps:
        step.do()


def pending(steps: Sequence[Step]) -> list[Step]:
    """The steps that change something."""
    return [step for step in steps if not (isinstance(step, Sysctl) and step.done())]


def prepare_up(wanted: Settings, tools: Tools) -> tuple[Seen, Record, bool, list[Step]]:
    """(the host's state, the record, whether the record existed before, the steps). The first step writes a new record.

    RumplabError when the bridge can't come up.
    """
    found, stood = look(tools)
    if stood is not None and stood.settings != wanted:
        raise RumplabError(
            f"{stood.settings.bridge} is up with earlier settings; take it down first: sudo rumplab net down"
        )
    plan.check(wanted, found, stood)
    current = stood or plan.begin(wanted, found, record.session())
    steps = pending(plan.up(wanted, found, current, tools))
    if stood:
        return found, current, True, steps
    return found, current, False, [plan.remember(current, tools), *steps]


def prepare_down(lab: Lab, tools: Tools, force: bool) -> tuple[Settings, list[Step]]:
    """(the settings with which the bridge came up, the steps). RumplabError while machines are attached, unless with
    `force`."""
    found, stood = look(tools)
    current = stood.settings if stood else settings.load(lab)
    link = found.link(current.bridge)
    if link is not None and plan.is_ours(link, current) and not force:
        names = [port.name for port in found.ports(current.bridge)]
        attached = ports.identify(names)
        if attached:
            raise RumplabError(
                f"{current.bridge} is in use by {', '.join(map(str, attached))}; stop that first, or use --force"
            )
    return current, plan.down(current, found, stood, tools)


def bridge_netfilter() -> bool:
    """Whether the kernel passes bridged packets to the IP firewall."""
    try:
        return BRIDGE_NETFILTER.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False
