"""``rumplab net down``: takes the lab's bridge down and restores the host's network as it was before `net up`."""

from __future__ import annotations

import argparse
import os
import sys

from rumplab.host import streams
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.network import record, report
from rumplab.network.bridge import carry_out, prepare_down, require_root, tools_of
from rumplab.network.steps import script

EPILOG = """\
While machines are attached, the command refuses and names them.

examples:
  sudo rumplab net down
  sudo rumplab net down --force  also while machines are attached
  rumplab net down --dry-run     print the commands instead
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="also while machines are attached, which then lose the network"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")


def down(lab: Lab, force: bool, dry_run: bool) -> int:
    """Takes the bridge down, or prints the commands with `dry_run`. Returns the exit code."""
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


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    if platform == "darwin":
        print(report.darwin_text())
        return 0
    return down(config.load(), args.force, args.dry_run)
