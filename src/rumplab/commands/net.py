"""``rumplab net``: the lab's own bridge, brought up and taken down again without a trace."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rumplab import output
from rumplab.errors import RumplabError, UsageError
from rumplab.host import streams
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.network import dhcp, plan, ports, record, report, seen, settings
from rumplab.network.plan import Tools
from rumplab.network.record import Record
from rumplab.network.seen import Seen
from rumplab.network.settings import Settings
from rumplab.network.steps import Run, Step, Sysctl, script

EPILOG = """\
up and down need root. Both can be repeated, and finish what a run that was killed has begun. down leaves the
host's addresses, routes, kernel settings and firewall as up found them.

examples:
  rumplab net status
  rumplab net status --json
  sudo rumplab net up
  sudo rumplab net down
  rumplab net up --dry-run       print the commands instead
  sudo rumplab net down --force  even while machines are attached
"""
BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("up", "down", "status"), help="what to do")
    parser.add_argument("--force", action="store_true", help="down: even while machines are attached")
    parser.add_argument("--dry-run", action="store_true", help="up, down: print the commands and do nothing")
    parser.add_argument("--json", action="store_true", help="status: print JSON")


def check_usage(args: argparse.Namespace) -> None:
    """UsageError for an option that the action hasn't."""
    for option, actions in (("force", ("down",)), ("dry_run", ("up", "down")), ("json", ("status",))):
        if getattr(args, option) and args.action not in actions:
            flag = option.replace("_", "-")
            raise UsageError(f"--{flag} goes with {' and '.join(actions)}, not with {args.action}")


def tools_of(lab: Lab, serving: bool = False) -> Tools:
    """The tools of this lab, dnsmasq only for `serving`. NotProvisioned when it has no bridge."""
    directory = record.directory(lab)
    if not record.state_path(directory).exists():
        # Of a lab without a bridge this says more than the missing component can.
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
    """RumplabError with the command to use instead, unless `uid` is root's."""
    if uid != 0:
        raise RumplabError(
            f"'net {action}' changes the host's network, which needs root; run: sudo rumplab net {action}"
        )


def look(tools: Tools) -> tuple[Seen, Record | None]:
    """The host, and the record of this session's `net up`. RumplabError when another namespace has it."""
    found = seen.look(tools.ip, tools.nft, tools.directory / "dnsmasq.pid", os.geteuid() == 0)
    stood = record.read(tools.directory)
    if stood is None or stood.session == record.session():
        return found, stood
    if found.dhcp is not None:
        raise RumplabError(
            f"the bridge is up in another network namespace (dnsmasq, pid {found.dhcp[0]});"
            " bring it down there"
        )
    # Of an earlier boot or a container that is gone, and with it all that it speaks of.
    return found, None


def carry_out(steps: Sequence[Step]) -> None:
    for step in steps:
        step.do()


def pending(steps: Sequence[Step]) -> list[Step]:
    """The steps that change something."""
    return [step for step in steps if not (isinstance(step, Sysctl) and step.done())]


def prepare_up(wanted: Settings, tools: Tools) -> tuple[Seen, Record, bool, list[Step]]:
    """(the host, the record, whether it stood before, the steps, the record's own first if it didn't).

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


def up(lab: Lab, dry_run: bool) -> int:
    wanted, tools = settings.load(lab), tools_of(lab, serving=True)
    if dry_run:
        make = Run(("mkdir", "-p", "-m", "755", str(tools.directory)))
        streams.script(script([make, *prepare_up(wanted, tools)[3]]))
        return 0
    require_root("up", os.geteuid())
    with record.locked(tools.directory):
        found, current, repeated, steps = prepare_up(wanted, tools)
        if not steps:
            print(f"{wanted.bridge} is up already, {wanted.address}")
            return 0
        try:
            carry_out(steps)
        except BaseException:
            # What stood before this run may have guests on it, and its firewall with them.
            if not repeated:
                stood = found.link(wanted.bridge) is not None
                carry_out(plan.down(wanted, look(tools)[0], current, tools, keep_link=stood))
            raise
    print(f"{wanted.bridge} is up, {wanted.address}; guests get {wanted.first} to {wanted.last}")
    return 0


def prepare_down(lab: Lab, tools: Tools, force: bool) -> tuple[Settings, list[Step]]:
    """(settings that it came up with, steps). RumplabError names the machines that are attached."""
    found, stood = look(tools)
    current = stood.settings if stood else settings.load(lab)
    link = found.link(current.bridge)
    if link is not None and plan.is_ours(link, current) and not force:
        names = [port.name for port in found.ports(current.bridge)]
        attached = ports.identify(names)
        if attached:
            raise RumplabError(
                f"{current.bridge} is in use by {', '.join(map(str, attached))}; stop that first,"
                " or use --force"
            )
    return current, plan.down(current, found, stood, tools)


def down(lab: Lab, force: bool, dry_run: bool) -> int:
    tools = tools_of(lab)
    if dry_run:
        streams.script(script(prepare_down(lab, tools, force)[1]))
        return 0
    require_root("down", os.geteuid())
    with record.locked(tools.directory):
        current, steps = prepare_down(lab, tools, force)
        carry_out(steps)
    print(f"{current.bridge} is down{'' if steps else ' already'}")
    return 0


def status(lab: Lab, as_json: bool) -> int:
    tools = tools_of(lab)
    found, stood = look(tools)
    current = stood.settings if stood else settings.load(lab)
    attached = ports.identify([port.name for port in found.ports(current.bridge)])
    path = tools.directory / "leases"
    leases = dhcp.read(path, time.time())
    data = report.as_data(current, found, stood is not None, attached, leases, bridge_netfilter())
    print(output.as_json(data) if as_json else report.as_text(data, attached))
    return 0


def bridge_netfilter() -> bool:
    """Whether the kernel shows bridged packets to the IP firewall."""
    try:
        return BRIDGE_NETFILTER.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def darwin(action: str, as_json: bool) -> int:
    """macOS: there is nothing to bring up or down; says so, and where root is needed."""
    if as_json:
        print(output.as_json(report.DARWIN))
    elif action == "status":
        print(f"{report.DARWIN['detail']}: {report.DARWIN['remedy']}")
    else:
        print(f"nothing to do: {report.DARWIN['detail']}: {report.DARWIN['remedy']}")
    return 0


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    check_usage(args)
    if platform == "darwin":
        return darwin(args.action, args.json)
    lab = config.load()
    if args.action == "up":
        return up(lab, args.dry_run)
    if args.action == "down":
        return down(lab, args.force, args.dry_run)
    return status(lab, args.json)
