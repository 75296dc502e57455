"""Make the shells' completion scripts from the parsers of the verbs: `tools/python tools/completions.py`.

The scripts are part of the tool, so that no host needs package shtab. A test checks that they are current.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

from rumplab import __version__
from rumplab.cli import main
from rumplab.cli.subcommands import Subparser
from rumplab.cli.verbs import VERBS
from rumplab.commands.completion import DIRECTORY, SCRIPTS

# Verbs with a positional argument that names a machine; the shells' functions complete it.
OF_MACHINES = (
    *("back", "debug", "dump", "logs", "screen", "snap", "snaps", "stop", "type"),
    *("ipkdb connect", "ipkdb check-port"),
)
# Verbs and sub-commands with a positional argument that names a recording.
OF_RECORDINGS = ("replay", "recording pack", "recording rm", "recording show", "recording verify")
MACHINES = {"bash": "_rumplab_machines", "zsh": "_rumplab_machines"}
GUESTS = {"bash": "_rumplab_guests", "zsh": "_rumplab_guests"}
RECORDINGS = {"bash": "_rumplab_recordings", "zsh": "_rumplab_recordings"}
# The functions read the first column of a table without its header. Without a lab, they complete nothing.
BASH = """\
_rumplab_names() {
    mapfile -t COMPREPLY < <(compgen -W "$(rumplab "${@:2}" 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$1")
    printf '%s\\n' "${COMPREPLY[@]}"
}
_rumplab_machines() { _rumplab_names "$1" ps; }
_rumplab_guests() { _rumplab_names "$1" guest list; }
_rumplab_recordings() { _rumplab_names "$1" recording ls; }
"""
ZSH = """\
_rumplab_names() {
    local -a names
    names=(${(f)"$(rumplab "$@" 2>/dev/null | awk 'NR > 1 { print $1 }')"})
    compadd -a names
}
_rumplab_machines() { _rumplab_names ps; }
_rumplab_guests() { _rumplab_names guest list; }
_rumplab_recordings() { _rumplab_names recording ls; }
"""


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    # argparse has no public function that lists a parser's arguments; shtab uses this attribute too.
    yield from parser._actions


def marked(parser: argparse.ArgumentParser, words: str) -> None:
    """Tell shtab which arguments are a file, a directory, a machine, a guest or a recording."""
    for action in actions(parser):
        if action.choices or action.nargs == 0:
            continue
        if not action.option_strings and action.dest in ("name", "names", "machine"):
            if words.startswith("guest ") and words != "guest create":
                action.complete = GUESTS  # type: ignore[attr-defined]
            elif words in OF_RECORDINGS:
                action.complete = RECORDINGS  # type: ignore[attr-defined]
            elif words in OF_MACHINES:
                action.complete = MACHINES  # type: ignore[attr-defined]
        elif "DIR" in str(action.metavar):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif any(word in str(action.metavar) for word in ("FILE", "IMAGE", "PROGRAM", "SOURCE", "PATH")):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def whole() -> argparse.ArgumentParser:
    """Return one parser of all verbs and their sub-commands."""
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
    """Return the completion script for `shell`."""
    text: str = shtab.complete(whole(), shell, preamble={"bash": BASH, "zsh": ZSH}[shell])
    return text.rstrip() + "\n"


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for shell, name in SCRIPTS.items():
        (DIRECTORY / name).write_text(made(shell), encoding="utf-8")
