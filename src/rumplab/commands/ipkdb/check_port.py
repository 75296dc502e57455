"""``rumplab ipkdb check-port``: tests on a running target what IPKDB's protocol demands of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

from rumplab import output
from rumplab.cli import ipkdb_target
from rumplab.ipkdb import check_port, session
from rumplab.ipkdb.link import Timing
from rumplab.ipkdb.pcap import Writer
from rumplab.ipkdb.session import Plan
from rumplab.ipkdb.udp import linked

EPILOG = """\
Start it while the kernel waits in IPKDB. At the end it detaches, and the kernel runs on.

examples:
  rumplab ipkdb check-port netbsd --key-file ipkdb.key
  rumplab ipkdb check-port --target 127.0.0.1:1138 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ipkdb_target.add_arguments(parser)
    parser.add_argument(
        "--oversized",
        action="store_true",
        help="also request more bytes than a reply holds: NetBSD's own IPKDB then overruns its buffer",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


async def run_checks(plan: Plan, oversized: bool) -> tuple[list[check_port.Row], bool]:
    """Runs the checks. Returns (their results, whether the target stopped answering)."""
    session.refuse_second_debugger(plan.place)
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(contextlib.closing(Writer(plan.pcap))) if plan.pcap else None
        timing = Timing(patience=plan.patience)
        async with linked(plan.place, plan.key, timing, capture) as link:
            checks = check_port.Checks(
                link, plan.arch, lambda other: linked(plan.place, other, timing, capture), session.whoami(), oversized
            )
            return [row async for row in checks.run()], checks.lost


def run(args: argparse.Namespace) -> int:
    ipkdb_target.check_usage(args)
    plan = ipkdb_target.plan_of(args)
    rows, lost = asyncio.run(run_checks(plan, args.oversized))
    failed = [row for row in rows if row.result == check_port.FAILED]
    if args.json:
        print(output.as_json([row.as_data() for row in rows]))
    else:
        print(output.table(("CHECK", "RESULT", "DETAIL"), [(row.name, row.result, row.detail) for row in rows]))
    if lost:
        print(
            "rumplab ipkdb: the target stopped answering, so the list ends there; it may still be stopped",
            file=sys.stderr,
        )
    return 1 if failed else 0
