"""``rumplab guest``: NetBSD guests, and Linux ones, that are debugged by their own kernel's debugger."""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType

from rumplab.errors import UsageError

HELP = "NetBSD guests: create, start, console, break, debug, stop"
EPILOG = """\
'rumplab guest SUBVERB --help' explains each.

examples:
  rumplab guest create nb
  rumplab guest start nb --kgdb            the kernel waits in its debugger
  rumplab guest debug nb                   GDB, stopped in the kernel
  rumplab guest break nb                   stop a running kernel
  rumplab guest console nb                 Ctrl-] leaves it
  rumplab guest pci nb
  rumplab guest list
  rumplab guest stop nb
  rumplab guest delete nb
"""
TAKES_EXTRA = True
# Each sub-verb, and the module that is it: with HELP, EPILOG, add_arguments and run, like a verb's.
SUBVERBS = {
    "create": "create",
    "start": "start",
    "stop": "stop",
    "console": "terminal",
    "break": "interrupt",
    "debug": "debugging",
    "pci": "pci",
    "list": "listing",
    "delete": "delete",
}


def module_of(subverb: str) -> ModuleType:
    """The module that implements `subverb`, imported now."""
    return importlib.import_module(f"rumplab.guest.{SUBVERBS[subverb]}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parsers = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True)
    for subverb in SUBVERBS:
        module = module_of(subverb)
        added = parsers.add_parser(
            subverb,
            help=module.HELP,
            description=module.HELP,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(added)


def run(args: argparse.Namespace) -> int:
    module = module_of(args.subverb)
    if args.extra and not getattr(module, "TAKES_EXTRA", False):
        raise UsageError(f"'guest {args.subverb}' passes nothing on, so leave out '--' and what follows it")
    code: int = module.run(args)
    return code
