"""A verb with sub-commands: it is a package with one module for each of them."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rumplab.cli.main import Parser
from rumplab.errors import UsageError


@dataclass(frozen=True)
class Group:
    """The sub-commands of `verb`, each with a description of one line.

    A sub-command is a module of the verb's package. Like a verb's module, it has ``EPILOG``,
    ``add_arguments(parser)`` and ``run(args) -> int``, and may have ``TAKES_EXTRA``. The module has the sub-command's
    name; a ``_`` follows where the name is a keyword or a built-in name of Python.
    """

    verb: str
    subcommands: dict[str, str]

    def module(self, subcommand: str) -> ModuleType:
        """Imports and returns the module that implements `subcommand`."""
        name = subcommand.replace("-", "_")
        reserved = name in ("break", "list")
        return importlib.import_module(f"rumplab.commands.{self.verb}.{name}{'_' if reserved else ''}")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parsers = parser.add_subparsers(
            title="sub-commands",
            description=f"'rumplab {self.verb} SUBCOMMAND --help' explains each of them",
            dest="subcommand",
            metavar="SUBCOMMAND",
            required=True,
            parser_class=Subparser,
        )
        for subcommand, line in self.subcommands.items():
            added = parsers.add_parser(
                subcommand, help=line, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
            )
            added.group, added.subcommand = self, subcommand

    def run(self, args: argparse.Namespace) -> int:
        module = self.module(args.subcommand)
        if args.extra and not getattr(module, "TAKES_EXTRA", False):
            raise UsageError(
                f"'{self.verb} {args.subcommand}' takes no arguments after '--'; leave out '--' and what follows it"
            )
        code: int = module.run(args)
        return code


class Subparser(Parser):
    """A sub-command's parser, which loads the sub-command's module only when it parses. To load the modules of all
    sub-commands would take as long as starting a guest."""

    group: Group | None = None
    subcommand = ""

    def complete(self) -> Subparser:
        """Adds the sub-command's arguments, once, and returns this parser."""
        if self.group is not None and self.description is None:
            module = self.group.module(self.subcommand)
            self.description, self.epilog = self.group.subcommands[self.subcommand], module.EPILOG
            module.add_arguments(self)
        return self

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.complete()
        return super().parse_known_args(args, namespace)
