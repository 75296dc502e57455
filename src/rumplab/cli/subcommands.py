"""Sub-commands: a verb that is a package, with a module for each of them."""

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
    """The sub-commands of `verb`, each with its one line. A sub-command is a module of the verb's package with
    ``EPILOG``, ``add_arguments(parser)`` and ``run(args) -> int``, and may have ``TAKES_EXTRA``, as a verb's module.
    Its name is the sub-command's; one that is a word of Python has a ``_`` behind it."""

    verb: str
    subcommands: dict[str, str]

    def module(self, subcommand: str) -> ModuleType:
        """The module that implements `subcommand`, imported now."""
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
                f"'{self.verb} {args.subcommand}' passes nothing on, so leave out '--' and what follows it"
            )
        code: int = module.run(args)
        return code


class Subparser(Parser):
    """A sub-command's parser, made complete when it is the one that is used: the other modules take as long to load
    as starting a guest does."""

    group: Group | None = None
    subcommand = ""

    def complete(self) -> Subparser:
        """The parser with its arguments."""
        if self.group is not None and self.description is None:
            module = self.group.module(self.subcommand)
            self.description, self.epilog = self.group.subcommands[self.subcommand], module.EPILOG
            module.add_arguments(self)
        return self

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.complete()
        return super().parse_known_args(args, namespace)
