"""The options of ``rumplab ipkdb`` that name the target, and the session's plan that follows from them."""

from __future__ import annotations

import argparse
import re
from ipaddress import IPv4Address
from pathlib import Path

from rumplab.errors import RumplabError, UsageError
from rumplab.ipkdb import arch, key, reach
from rumplab.ipkdb.packet import digest
from rumplab.ipkdb.session import Plan
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine.registry import Machine, open_machines

DEFAULT_TIMEOUT = 30
LONGEST_TIMEOUT = 24 * 3600


def address(text: str) -> tuple[IPv4Address, int]:
    """Parses IP[:PORT]; returns the address and the UDP port."""
    try:
        return reach.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def timeout(text: str) -> int:
    """Returns `text` as whole seconds, from 1 to one day."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 1 to {LONGEST_TIMEOUT}")
    return int(text)


def add_key(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the kernel's IPKDBKEY (default: ${key.VARIABLE}, else the lab's etc/ipkdb.key)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("machine", metavar="NAME", nargs="?", help="a running machine; or give --target")
    target = parser.add_argument_group("the target")
    target.add_argument("--target", type=address, metavar="IP[:PORT]", help="the kernel's address, instead of NAME")
    add_key(target)
    target.add_argument(
        "--arch", choices=tuple(arch.ARCHES), default="i386", help="the kernel's processor (default: i386)"
    )
    target.add_argument(
        "--timeout",
        type=timeout,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for the kernel's first answer (default: %(default)s)",
    )
    target.add_argument(
        "--i-know",
        action="store_true",
        help="allow a --target outside the lab's networks; IPKDB encrypts nothing, so whoever can listen there reads"
        " the kernel's memory",
    )
    target.add_argument(
        "--pcap", type=Path, metavar="FILE", help="record the packets in FILE, for Wireshark or 'ipkdb decode'"
    )


def check_usage(args: argparse.Namespace) -> None:
    """Raises UsageError unless the command line names exactly one target."""
    if bool(args.machine) == bool(args.target):
        raise UsageError("name one target: a machine, or its address with --target")


def secret(key_file: Path | None, lab: Lab | None) -> bytes:
    """Returns the key, from `key_file`, the environment or the lab. UsageError if there is none; RumplabError if
    the file can't be used, or this host's OpenSSL refuses HMAC-MD5."""
    found = key.load(key_file, lab.prefix / "etc" / "ipkdb.key" if lab else None)
    try:
        digest(b"", found)
    except ValueError as error:
        raise RumplabError(
            f"IPKDB needs HMAC-MD5, which this host's OpenSSL refuses ({error}); is FIPS mode on? Turn it off"
        ) from error
    return found


def target_of(args: argparse.Namespace, lab: Lab | None) -> tuple[tuple[IPv4Address, int], Machine | None]:
    """Returns (the target's IP address and UDP port, its machine or None). The machine is None if --target gave the
    address. RumplabError if that address is outside the lab's networks."""
    if args.target:
        reach.check(args.target[0], reach.networks(lab), args.i_know)
        return args.target, None
    where = lab or config.load()
    machine = open_machines(where).find(args.machine)
    return reach.place_of(machine, where), machine


def plan_of(args: argparse.Namespace, port: int | None = 0, trace: bool = False) -> Plan:
    """Returns the plan of a session. GDB connects to TCP port `port`; 0 means a UNIX socket, None standard input and
    output."""
    lab = reach.lab_here()
    where, machine = target_of(args, lab)
    return Plan(
        place=where,
        key=secret(args.key_file, lab),
        arch=arch.ARCHES[args.arch],
        port=port,
        patience=float(args.timeout),
        machine=machine,
        pcap=args.pcap,
        trace=trace,
    )
