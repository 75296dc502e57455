#!/usr/bin/env python3
"""Make the shells' completion scripts of the verbs' own parsers: `.venv/bin/python tools/completions.py`.

They are part of the tool, so that no host needs the package that makes them; a test holds that they are current.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))

from rumplab import __version__  # noqa: E402
from rumplab.cli import main  # noqa: E402
from rumplab.cli.subcommands import Subparser  # noqa: E402
from rumplab.cli.verbs import VERBS  # noqa: E402
from rumplab.commands.completion import DIRECTORY, SCRIPTS  # noqa: E402

# Positional arguments that name something of the user's: what each is called in a parser, and what lists it.
NAMES = {"machine": "ps", "guest": "guest list"}
OF_MACHINES = (
    *("back", "debug", "dump", "logs", "screen", "snap", "snaps", "stop", "type"),
    *("ipkdb connect", "ipkdb check-port"),
)
MACHINES = {"bash": "_rumplab_machines", "zsh": "_rumplab_machines"}
GUESTS = {"bash": "_rumplab_guests", "zsh": "_rumplab_guests"}
# The first column of a table without its head. A lab that isn't there lists nothing.
BASH = """\
_rumplab_names() {
    mapfile -t COMPREPLY < <(compgen -W "$(rumplab "${@:2}" 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$1")
    printf '%s\\n' "${COMPREPLY[@]}"
}
_rumplab_machines() { _rumplab_names "$1" ps; }
_rumplab_guests() { _rumplab_names "$1" guest list; }
"""
ZSH = """\
_rumplab_names() {
    local -a names
    names=(${(f)"$(rumplab "$@" 2>/dev/null | awk 'NR > 1 { print $1 }')"})
    compadd -a names
}
_rumplab_machines() { _rumplab_names ps; }
_rumplab_guests() { _rumplab_names guest list; }
"""


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    # argparse has no public way to walk a parser's arguments; shtab walks them like this too.
    yield from parser._actions


def marked(parser: argparse.ArgumentParser, words: str) -> None:
    """Mark what is a file, a directory, a machine or a guest, for shtab."""
    for action in actions(parser):
        if action.choices or action.nargs == 0:
            continue
        if not action.option_strings and action.dest in ("name", "machine"):
            named = words.startswith("guest ") and words != "guest create"
            if named or words in OF_MACHINES:
                action.complete = GUESTS if named else MACHINES  # type: ignore[attr-defined]
        elif "DIR" in str(action.metavar):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif any(word in str(action.metavar) for word in ("FILE", "IMAGE", "PROGRAM", "SOURCE", "PATH")):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def whole() -> argparse.ArgumentParser:
    """One parser of all verbs and their sub-commands."""
    parser = argparse.ArgumentParser(prog="rumplab")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers()
    for verb, line in VERBS.items():
        added = verbs.add_parser(verb, help=line, description=line)
        main.verb_module(verb).add_arguments(added)
        marked(added, verb)
        for action in actions(added):
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    if isinstance(below, Subparser):
                        below.complete()
                    marked(below, f"{verb} {name}")
    return parser


def made(shell: str) -> str:
    """The script for `shell`."""
    text: str = shtab.complete(whole(), shell, preamble={"bash": BASH, "zsh": ZSH}[shell])
    return text.rstrip() + "\n"


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for shell, name in SCRIPTS.items():
        (DIRECTORY / name).write_text(made(shell), encoding="utf-8")
