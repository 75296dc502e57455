"""``rumplab net status``: shows the lab's bridge and what is attached to it."""

from __future__ import annotations

import argparse
import sys
import time

from rumplab import output
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.network import dhcp, ports, report, settings
from rumplab.network.bridge import bridge_netfilter, look, tools_of

EPILOG = """\
examples:
  rumplab net status
  rumplab net status --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def status(lab: Lab, as_json: bool) -> int:
    """Prints the state of the bridge. Returns the exit code."""
    tools = tools_of(lab)
    found, recorded = look(tools)
    current = recorded.settings if recorded else settings.load(lab)
    attached = ports.identify([port.name for port in found.ports(current.bridge)])
    path = tools.directory / "leases"
    leases = dhcp.read(path, time.time())
    data = report.as_data(current, found, recorded is not None, attached, leases, bridge_netfilter())
    print(output.as_json(data) if as_json else report.as_text(data, attached))
    return 0


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    if platform == "darwin":
        print(output.as_json(report.DARWIN) if args.json else report.darwin_text(doing=False))
        return 0
    return status(config.load(), args.json)
