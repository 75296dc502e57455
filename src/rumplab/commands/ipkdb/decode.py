"""``rumplab ipkdb decode``: prints the IPKDB packets of a capture in words, and checks their HMACs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rumplab import output
from rumplab.cli import ipkdb_target
from rumplab.errors import UsageError
from rumplab.ipkdb import decode, reach

EPILOG = """\
Without the key, the packets are printed all the same; the output says that their HMACs were not checked.

examples:
  rumplab ipkdb decode session.pcap --key-file ipkdb.key
  rumplab ipkdb decode session.pcap --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a capture file, pcap or pcapng")
    ipkdb_target.add_key(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    try:
        secret: bytes | None = ipkdb_target.secret(args.key_file, reach.lab_here())
    except UsageError:
        # Without a key, the packets can be decoded and the output says that their HMACs are unchecked.
        secret = None
    capture = decode.read(args.file, secret)
    found, unread = capture.lines, capture.unread
    if args.json:
        print(output.as_json([line.as_data() for line in found]))
    elif found or not unread:
        print("\n".join(decode.as_text(found)) or f"no IPKDB in {args.file}")
    for why, count in unread.items():
        print(f"rumplab ipkdb: {args.file}: {count} record{'s' if count > 1 else ''} {why}", file=sys.stderr)
    return 1 if unread or any(line.hmac == decode.BAD for line in found) else 0
