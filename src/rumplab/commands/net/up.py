"""``rumplab net up``: brings the lab's bridge up."""

from __future__ import annotations

import argparse
import os
import sys

from rumplab.host import streams
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.network import plan, record, report, settings
from rumplab.network.bridge import carry_out, look, prepare_up, require_root, tools_of
from rumplab.network.steps import Run, script

EPILOG = """\
Machines on the bridge get addresses by DHCP. They reach networks outside the host only if the lab's setting bridge_nat
is true.

examples:
  sudo rumplab net up
  rumplab net up --dry-run       print the commands instead
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")


def up(lab: Lab, dry_run: bool) -> int:
    """Brings the bridge up, or prints the commands with `dry_run`. Returns the exit code."""
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
            # Undo this run's steps. If the bridge existed before, guests may use it and its firewall: then keep it.
            if not repeated:
                existed = found.link(wanted.bridge) is not None
                carry_out(plan.down(wanted, look(tools)[0], current, tools, keep_link=existed))
            raise
    print(f"{wanted.bridge} is up, {wanted.address}; guests get {wanted.first} to {wanted.last}")
    return 0


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    if platform == "darwin":
        print(report.darwin_text())
        return 0
    return up(config.load(), args.dry_run)
