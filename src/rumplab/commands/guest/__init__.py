"""``rumplab guest``: NetBSD guests, and Linux ones, that are debugged by their own kernel's debugger."""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType
from typing import Any

from rumplab.cli.main import Parser
from rumplab.errors import UsageError

HELP = "NetBSD guests: create, start, console, break, debug, stop"
EPILOG = """\
sub-verbs, each of which 'rumplab guest SUBVERB --help' explains:
  create   describe a guest, to be started by its name
  start    start it, in the background
  console  this terminal on its console; Ctrl-] leaves it
  debug    attach the lab's GDB to its kernel, symbols loaded
  break    stop its running kernel in its debugger
  pci      its PCI devices, with their drivers
  stop     shut it down, within a bounded time
  list     your guests
  delete   forget a guest, and the disk that it kept

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
# Each sub-verb: the module that is it, with HELP, EPILOG, add_arguments and run, like a verb's.
SUBVERBS = {
    "create": "create",
    "start": "start",
    "stop": "stop",
    "console": "console",
    "break": "break_",
    "debug": "debug",
    "pci": "pci",
    "list": "list_",
    "delete": "delete",
}


def module_of(subverb: str) -> ModuleType:
    """The module that implements `subverb`, imported now."""
    return importlib.import_module(f"rumplab.commands.guest.{SUBVERBS[subverb]}")


class Subparser(Parser):
    """A sub-verb's parser, made complete when it is the one that is used: the others' modules take as long to load
    as starting a guest does."""

    subverb = ""

    def complete(self) -> Subparser:
        """The parser with its arguments."""
        if self.subverb and self.description is None:
            module = module_of(self.subverb)
            self.description, self.epilog = module.HELP, module.EPILOG
            module.add_arguments(self)
        return self

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.complete()
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parsers = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True, parser_class=Subparser)
    for subverb in SUBVERBS:
        added = parsers.add_parser(
            subverb, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        added.subverb = subverb


def run(args: argparse.Namespace) -> int:
    module = module_of(args.subverb)
    if args.extra and not getattr(module, "TAKES_EXTRA", False):
        raise UsageError(f"'guest {args.subverb}' passes nothing on, so leave out '--' and what follows it")
    code: int = module.run(args)
    return code
