"""``rumplab ipkdb new-port``: writes the first files of a port of IPKDB to another card or machine, in NetBSD's
layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rumplab.ipkdb import new_port

EPILOG = """\
Each function in the files has a comment that says what it must do.

examples:
  rumplab ipkdb new-port --interface xx --bus pci -o port
  rumplab ipkdb new-port --interface xx --bus pci --sys-arch zz -o port
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interface", metavar="XX", required=True, help="name of the card's driver, as in if_xx.c")
    parser.add_argument(
        "--bus", metavar="YY", required=True, help="directory of that driver below sys/dev: pci, isa, ic …"
    )
    parser.add_argument("--sys-arch", metavar="ZZ", help="also write the machine-dependent files, for sys/arch/ZZ")
    # The old name of --sys-arch. It was renamed, since a machine is a QEMU process in the rest of the tool.
    parser.add_argument("--machine", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="the directory to make (default: ipkdb-XX)")


def run(args: argparse.Namespace) -> int:
    if args.machine is not None:
        print("rumplab ipkdb: use --sys-arch instead of --machine; a later release refuses --machine", file=sys.stderr)
    return new_port.run(args.interface, args.bus, args.sys_arch or args.machine, args.output)
