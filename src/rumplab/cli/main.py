"""The command line: finds the verb, loads its module and nothing else, and turns errors into exit codes.

A verb is a module ``rumplab.commands.VERB`` with ``EPILOG`` (examples), ``add_arguments(parser)``
and ``run(args) -> int``; its one line is in rumplab.cli.verbs. A module with ``TAKES_EXTRA = True`` gets what follows
``--`` on the command line as the list ``args.extra``. One with ``renewed(words)`` turns a command line of an earlier
release into today's. ``args.words`` are the words that were parsed.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import importlib
import signal
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from rumplab import __version__
from rumplab.cli.verbs import HIDDEN_VERBS, VERBS
from rumplab.errors import RumplabError
from rumplab.host.streams import OUTPUT, drop_output, prepare

EXAMPLES = """\
examples:
  rumplab status                          what is provisioned
  rumplab smoke                           prove that the whole lab works
  rumplab build hello -o hello.bin        make a unikernel of a Go or C program
  rumplab stage hello.bin -o hello.img    make a bootable image, without root
  rumplab run hello.img --wait --detach   start it, stopped before its first instruction
  rumplab debug hello main                attach the debugger and run to main

'rumplab VERB --help' explains a verb. Exit codes: 0 done, 1 failed, 2 usage, 3 not provisioned,
4 the guest of 'run --on-panic' failed.
"""


def verb_module(verb: str) -> ModuleType:
    """The module that implements `verb`, imported now."""
    return importlib.import_module(f"rumplab.commands.{verb}")


class Parser(argparse.ArgumentParser):
    """A verb's parser. A value that is empty, as an unset variable leaves it, is nobody's name: argparse would take it,
    and `Path` makes the working directory of it. A value of two dashes is one: argparse loses it."""

    # What may be said to be nothing.
    MAY_BE_EMPTY = ("args", "append", "ex")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # A sub-verb's own parser looks at its words.
        if "" in arg_strings and action.nargs != argparse.PARSER and action.dest not in self.MAY_BE_EMPTY:
            raise argparse.ArgumentError(action, "is empty; is a variable unset?")
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)


def verb_parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """The argument parser of one verb."""
    parser = Parser(
        prog=f"rumplab {verb}",
        description={**VERBS, **HIDDEN_VERBS}[verb],
        epilog=module.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def overview() -> str:
    """The text of ``rumplab --help``: a table of the verbs."""
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:{width}}  {line}" for verb, line in VERBS.items())
    return f"usage: rumplab VERB [ARGUMENT…]\n       rumplab --version\n\nverbs:\n{rows}\n\n{EXAMPLES}"


def split_extra(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and after the first ``--``."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def unknown(word: str) -> str:
    # Only here: it takes longer to load than the rest.
    import difflib

    close = difflib.get_close_matches(word, VERBS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"rumplab: unknown verb '{word}'{hint}; 'rumplab --help' lists them"


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While modules load: what they make stays, so that looking for garbage among it, then and at the end, costs
    time for nothing; a tenth of a short command's."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def dispatch(verb: str, arguments: list[str]) -> int:
    """Parses `arguments` for `verb` and runs it; the verb's errors pass through."""
    with loading():
        module = verb_module(verb)
        parser = verb_parser(verb, module)
        if hasattr(module, "renewed"):
            arguments = module.renewed(arguments)
        extra: list[str] = []
        if getattr(module, "TAKES_EXTRA", False):
            arguments, extra = split_extra(arguments)
        args = parser.parse_args(arguments)
    args.words, args.extra = arguments, extra
    code: int = module.run(args)
    return code


def complain(verb: str, message: str) -> None:
    print(f"{f'rumplab {verb}'.rstrip()}: {message}", file=sys.stderr)


def answer(arguments: list[str]) -> int:
    """Does what the command line asks for; the exit code. Errors pass through."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0 if arguments else 2
    verb = arguments[0]
    if verb in ("-V", "--version"):
        print(f"rumplab {__version__}")
        return 0
    if verb not in VERBS and verb not in HIDDEN_VERBS:
        print(unknown(verb), file=sys.stderr)
        return 2
    return dispatch(verb, arguments[1:])


def said(arguments: list[str]) -> int:
    """The same, once standard output has been written. argparse leaves by SystemExit after a --help."""
    try:
        code = answer(arguments)
    except SystemExit as leaving:
        if leaving.code == 0:
            sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def program(arguments: list[str]) -> int:
    """What the command `rumplab` is: `main` with the streams that the caller left."""
    prepare()
    # What __main__ has put off.
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main(arguments)


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit code; see docs/development/architecture.md for what the codes mean."""
    arguments = sys.argv[1:] if argv is None else argv
    verb = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    try:
        return said(arguments)
    except RumplabError as error:
        complain(verb, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader went away: that's not a failure to report, and the exit must not flush to it again.
        drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        remedy = "; free some space there" if error.errno == errno.ENOSPC else ""
        complain(verb, f"{place}{error.strerror or error}{remedy}")
        # What couldn't be written is still waiting, and would be tried again at the end.
        if error.filename == OUTPUT:
            drop_output()
        return 1
