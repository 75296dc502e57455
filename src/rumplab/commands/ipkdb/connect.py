"""``rumplab ipkdb connect``: connects GDB to a kernel that has IPKDB."""

from __future__ import annotations

import argparse
import asyncio

from rumplab.cli import ipkdb_target
from rumplab.cli.arguments import port
from rumplab.errors import UsageError
from rumplab.ipkdb import session

EPILOG = """\
NAME is a machine that was started with --forward udp:1138:1138, or one on the lab's bridge. Its kernel was booted with
-d and waits in IPKDB. Without --port and --stdio, the command makes a UNIX socket that only you can open, and prints
its path for GDB's 'target remote'. For a guest, 'rumplab guest debug' does all of this.

examples:
  rumplab ipkdb connect netbsd --key-file ipkdb.key                then in GDB: target remote SOCKET, which it prints
  rumplab ipkdb connect --target 127.0.0.1:1138 --key-file ipkdb.key --port 2345
  rumplab ipkdb connect --target 10.0.1.50 --stdio --pcap session.pcap
                                          started by GDB itself: target remote | rumplab ipkdb connect …
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ipkdb_target.add_arguments(parser)
    gdb = parser.add_argument_group("GDB")
    gdb.add_argument(
        "--port",
        type=port,
        help="wait for GDB on this TCP port of 127.0.0.1, where every user of this host can attach (default: a socket)",
    )
    gdb.add_argument("--stdio", action="store_true", help="talk to GDB on standard input and output")
    gdb.add_argument("--trace", action="store_true", help="print the packets of both protocols on standard error")


def run(args: argparse.Namespace) -> int:
    ipkdb_target.check_usage(args)
    if args.port and args.stdio:
        raise UsageError("--port and --stdio both say how GDB connects; use one of them")
    asyncio.run(session.run(ipkdb_target.plan_of(args, None if args.stdio else args.port or 0, args.trace)))
    return 0
