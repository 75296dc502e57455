"""``rumplab completion``: a shell's completion script, made from the verbs' own argument parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from rumplab.cli import main

EPILOG = """\
examples:
  rumplab completion bash > ~/.local/share/bash-completion/completions/rumplab
  source <(rumplab completion bash)
  rumplab completion zsh > ~/.zfunc/_rumplab
"""
SHELLS = ("bash", "zsh")
# Verbs whose first positional argument is a machine's name.
NAMED = ("debug", "ipkdb", "logs", "screen", "stop", "type")

BASH = """\
# Completion for rumplab.
_rumplab() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local verb=${{COMP_WORDS[1]}} words=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "{verbs} --help --version" -- "$current")
        return
    fi
    case "$verb $previous" in
{choices}
    esac
    if [ -z "$words" ]; then
        case "$verb" in
{options}
        esac
        case "$verb" in
            {named}) words="$words $(_rumplab_machines)" ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
_rumplab_machines() {{
    rumplab ps 2>/dev/null | awk 'NR > 1 {{ print $1 }}'
}}
complete -o bashdefault -o default -F _rumplab rumplab
"""

ZSH = """\
#compdef rumplab
# Completion for rumplab.
_rumplab_machines() {{
    local -a names
    names=(${{(f)"$(rumplab ps 2>/dev/null | awk 'NR > 1 {{ print $1 }}')"}})
    compadd -a names
}}
_rumplab() {{
    if (( CURRENT == 2 )); then
        compadd -- {verbs} --help --version
        return
    fi
    case "$words[2] $words[CURRENT-1]" in
{choices}
    esac
    case "$words[2]" in
{options}
    esac
    case "$words[2]" in
        {named}) _rumplab_machines ;;
        *) _files ;;
    esac
}}
if [ "$funcstack[1]" = "_rumplab" ]; then
    _rumplab "$@"
else
    compdef _rumplab rumplab
fi
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every verb's parser."""
    return {verb: main.verb_parser(verb, main.verb_module(verb)) for verb in main.VERBS}


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a verb's sub-verbs, by name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in actions(parser):
        if isinstance(action, argparse._SubParsersAction):
            found.update({name: completed(below) for name, below in action.choices.items()})
    return found


def completed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A parser that has all its arguments, which some get only when they are used."""
    complete = getattr(parser, "complete", None)
    return complete() if complete else parser


def options(parser: argparse.ArgumentParser) -> list[str]:
    """The sub-verbs of a verb, and its long options and theirs."""
    below = subparsers(parser)
    words = {option for action in actions(parser) for option in action.option_strings if option.startswith("--")}
    return sorted(words.union(below, *map(options, below.values())))


def actions(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    # argparse has no public way to walk a parser's arguments.
    return parser._actions


def choices(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """The words that may follow an option, for options that take one of a few; a sub-verb's are among them."""
    found = {
        option: [str(choice) for choice in action.choices]
        for action in actions(parser)
        if action.choices
        for option in action.option_strings
    }
    for below in subparsers(parser).values():
        found.update(choices(below))
    return found


def script(shell: str) -> str:
    """The completion script for `shell`."""
    verbs = parsers()
    words = 'words="{}"' if shell == "bash" else "compadd -- {}"
    after = "" if shell == "bash" else "; return"
    option_lines = [
        f"            {verb}) {words.format(' '.join(options(parser)))} ;;" for verb, parser in verbs.items()
    ]
    choice_lines = [
        f'        "{verb} {option}") {words.format(" ".join(values))}{after} ;;'
        for verb, parser in verbs.items()
        for option, values in choices(parser).items()
    ]
    return (BASH if shell == "bash" else ZSH).format(
        verbs=" ".join(main.VERBS),
        named="|".join(NAMED),
        options="\n".join(option_lines),
        choices="\n".join(choice_lines),
    )


def run(args: argparse.Namespace) -> int:
    print(script(args.shell), end="")
    return 0
