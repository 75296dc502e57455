"""``rumplab relay SOCKET``: connects GDB to a stub on a UNIX socket. A GDB before 8.3 has no `target remote SOCKET` and
runs it with ``target remote | rumplab relay …``."""

from __future__ import annotations

import argparse
import os

from rumplab.gdb import pipe

EPILOG = """\
examples:
  (gdb) target remote | rumplab relay ~/.local/state/rumplab-1a2b3c4d/machines/hello/gdb.sock
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("socket", metavar="SOCKET", help="the path of the stub's socket: 'stub' in 'rumplab ps --json'")


def run(args: argparse.Namespace) -> int:
    return pipe.main([os.path.abspath(args.socket), pipe.THROUGH])
