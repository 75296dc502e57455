"""``rumplab ipkdb``: GDB on a kernel that has IPKDB, and the kit for those who bring IPKDB to another machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
from ipaddress import IPv4Address
from pathlib import Path

from rumplab import config, output
from rumplab.config import Lab
from rumplab.errors import RumplabError, UsageError
from rumplab.kdb import arch, bridge, check, decode, key, newport, reach
from rumplab.kdb.bridge import Plan
from rumplab.kdb.link import Timing
from rumplab.kdb.packet import digest
from rumplab.kdb.pcap import Writer
from rumplab.kdb.udp import linked
from rumplab.machines import Machine, open_machines
from rumplab.netoptions import port

HELP = "debug a NetBSD kernel over Ethernet with today's GDB (IPKDB)"
EPILOG = """\
The key is the kernel's IPKDBKEY: in a file (--key-file), or in the environment (RUMPLAB_IPKDB_KEY).
GUEST is a machine that runs with --forward udp:1138:1138 or on the lab's bridge.

decode prints a capture. check-port tries a target's IPKDB, point by point. new-port writes what a port of IPKDB to
another card or machine begins with.

examples:
  rumplab ipkdb netbsd --key-file ipkdb.key                       then in GDB: target remote SOCKET
  rumplab ipkdb --target 127.0.0.1:1138 --key-file ipkdb.key --port 2345
  rumplab ipkdb --target 10.0.1.50 --stdio --pcap session.pcap    for GDB's: target remote | rumplab ipkdb …
  rumplab ipkdb decode session.pcap --key-file ipkdb.key
  rumplab ipkdb check-port --target 127.0.0.1:1138 --json
  rumplab ipkdb new-port --interface xx --bus pci --machine zz -o port
"""
DECODE, CHECK, NEW = "decode", "check-port", "new-port"
ACTIONS = (DECODE, CHECK, NEW)
SESSION = "a session"
PATIENCE = 30
LONGEST_PATIENCE = 24 * 3600
# Which of the actions each option belongs to.
BELONGS = {
    "target": (SESSION, CHECK),
    "port": (SESSION,),
    "stdio": (SESSION,),
    "key_file": (SESSION, DECODE, CHECK),
    "arch": (SESSION, CHECK),
    "pcap": (SESSION, CHECK),
    "trace": (SESSION,),
    "timeout": (SESSION, CHECK),
    "i_know": (SESSION, CHECK),
    "json": (DECODE, CHECK),
    "oversized": (CHECK,),
    "interface": (NEW,),
    "bus": (NEW,),
    "machine": (NEW,),
    "output": (NEW,),
}


def place(text: str) -> tuple[IPv4Address, int]:
    try:
        return reach.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def seconds(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= LONGEST_PATIENCE:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 1 to {LONGEST_PATIENCE}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab ipkdb (GUEST | --target IP[:PORT] | decode FILE | check-port … | new-port …) [OPTION…]"
    parser.add_argument("subject", metavar="GUEST", nargs="?", help=f"a machine, or one of: {', '.join(ACTIONS)}")
    parser.add_argument("file", metavar="FILE", nargs="?", help="decode: a capture. check-port: a machine")
    target = parser.add_argument_group("the target")
    target.add_argument("--target", type=place, metavar="IP[:PORT]", help="its address, instead of a machine's name")
    target.add_argument("--key-file", type=Path, metavar="FILE", help=f"its IPKDBKEY (default: ${key.VARIABLE})")
    target.add_argument("--arch", choices=tuple(arch.ARCHES), help="what it runs on (default: i386)")
    target.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help=f"for it to answer at first (default: {PATIENCE})"
    )
    target.add_argument(
        "--i-know",
        action="store_true",
        help="talk to an address outside the lab's networks, though nothing is encrypted: who listens reads the memory",
    )
    session = parser.add_argument_group("a session")
    session.add_argument(
        "--port", type=port, help="wait for GDB on this TCP port, open to every user of this host (default: a socket)"
    )
    session.add_argument("--stdio", action="store_true", help="GDB is on standard input and output")
    session.add_argument("--pcap", type=Path, metavar="FILE", help="write what goes over the wire")
    session.add_argument("--trace", action="store_true", help="show both protocols on standard error")
    others = parser.add_argument_group("decode, check-port")
    others.add_argument("--json", action="store_true", help="report as JSON")
    others.add_argument(
        "--oversized", action="store_true", help="check-port: a read that is too large too, which harms NetBSD's kernel"
    )
    new = parser.add_argument_group("new-port")
    new.add_argument("--interface", metavar="XX", help="the card's driver, as in if_xx.c")
    new.add_argument("--bus", metavar="YY", help="the directory below sys/dev that it is in: pci, isa, ic …")
    new.add_argument("--machine", metavar="ZZ", help="the machine's half too, for sys/arch/ZZ")
    new.add_argument("-o", "--output", type=Path, metavar="DIR", help="a directory to make (default: ipkdb-XX)")


def check_usage(args: argparse.Namespace) -> str:
    """The action that is asked for. UsageError for an option that it hasn't, and for what it lacks."""
    action = args.subject if args.subject in ACTIONS else SESSION
    for option, actions in BELONGS.items():
        if getattr(args, option) and action not in actions:
            raise UsageError(f"--{option.replace('_', '-')} goes with {' and '.join(actions)}, not with {action}")
    guest = args.subject if action == SESSION else args.file
    if action in (SESSION, CHECK) and bool(guest) == bool(args.target):
        raise UsageError("name one target: a machine, or its address with --target")
    if action == SESSION and args.file:
        raise UsageError(f"'{args.file}' is one word too many")
    if action == DECODE and not args.file:
        raise UsageError("decode needs a FILE, a capture")
    if args.port and args.stdio:
        raise UsageError("--port and --stdio exclude each other: GDB comes by one of them")
    if action == NEW and (args.file or not (args.interface and args.bus)):
        raise UsageError("new-port needs --interface and --bus, and no other word")
    return str(action)


def secret(args: argparse.Namespace, lab: Lab | None) -> bytes:
    """The key. RumplabError also where this host's OpenSSL has no MD5."""
    found = key.load(args.key_file, lab.prefix / "etc" / "ipkdb.key" if lab else None)
    try:
        digest(b"", found)
    except ValueError as error:
        raise RumplabError(f"IPKDB needs HMAC-MD5, which this host's OpenSSL refuses ({error})") from error
    return found


def target_of(
    args: argparse.Namespace, name: str | None, lab: Lab | None
) -> tuple[tuple[IPv4Address, int], Machine | None]:
    """(where the target is, its machine if that is how it was named). RumplabError when it is out of bounds."""
    if args.target:
        reach.check(args.target[0], reach.networks(lab), args.i_know)
        return args.target, None
    where = lab or config.load()
    machine = open_machines(where).find(name or "")
    return reach.place_of(machine, where), machine


def plan_of(args: argparse.Namespace, name: str | None) -> Plan:
    lab = reach.lab_here()
    where, machine = target_of(args, name, lab)
    return Plan(
        place=where,
        key=secret(args, lab),
        arch=arch.ARCHES[args.arch or "i386"],
        port=None if args.stdio else args.port or 0,
        patience=float(args.timeout or PATIENCE),
        machine=machine,
        pcap=args.pcap,
        trace=args.trace,
    )


def run_decode(args: argparse.Namespace) -> int:
    try:
        known: bytes | None = secret(args, reach.lab_here())
    except UsageError:
        # A capture can be read without the key; its HMACs are then said to be unchecked.
        known = None
    capture = decode.read(Path(args.file), known)
    found, unread = capture.lines, capture.unread
    if args.json:
        print(output.as_json([line.as_data() for line in found]))
    elif found or not unread:
        print("\n".join(decode.as_text(found)) or f"no IPKDB in {args.file}")
    for why, count in unread.items():
        print(f"rumplab ipkdb: {args.file}: {count} record{'s' if count > 1 else ''} {why}", file=sys.stderr)
    return 1 if unread or any(line.hmac == decode.BAD for line in found) else 0


async def checked(plan: Plan, oversized: bool) -> tuple[list[check.Row], bool]:
    """(the rows, whether the target was lost on the way)."""
    bridge.refuse_second_debugger(plan.place)
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(contextlib.closing(Writer(plan.pcap))) if plan.pcap else None
        timing = Timing(patience=plan.patience)
        async with linked(plan.place, plan.key, timing, capture) as link:
            checks = check.Checks(
                link, plan.arch, lambda other: linked(plan.place, other, timing, capture), bridge.whoami(), oversized
            )
            return [row async for row in checks.run()], checks.lost


def run_check(args: argparse.Namespace) -> int:
    plan = plan_of(args, args.file)
    rows, lost = asyncio.run(checked(plan, args.oversized))
    failed = [row for row in rows if row.result == check.FAILED]
    if args.json:
        print(output.as_json([row.as_data() for row in rows]))
    else:
        print(output.table(("CHECK", "RESULT", "DETAIL"), [(row.name, row.result, row.detail) for row in rows]))
    if lost:
        print("rumplab ipkdb: the target was lost, so the list ends there; it may still be stopped", file=sys.stderr)
    return 1 if failed else 0


def run(args: argparse.Namespace) -> int:
    action = check_usage(args)
    if action == DECODE:
        return run_decode(args)
    if action == CHECK:
        return run_check(args)
    if action == NEW:
        return newport.run(args.interface, args.bus, args.machine, args.output)
    asyncio.run(bridge.run(plan_of(args, args.subject)))
    return 0
