"""The command line: finds the verb, loads only its module, and turns errors into exit codes.

A verb is a module ``rumplab.commands.VERB`` with ``EPILOG`` (examples), ``add_arguments(parser)`` and
``run(args) -> int``; rumplab.cli.verbs describes it in one line. If the module has ``TAKES_EXTRA = True``, the list
``args.extra`` holds the arguments after ``--``. If it has ``translate_old(words)``, that function turns a command line
of an earlier release into the present form. ``args.words`` holds the arguments that argparse got.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import importlib
import re
import signal
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

from rumplab import __version__
from rumplab.cli.verbs import HIDDEN_VERBS, VERBS
from rumplab.errors import RumplabError
from rumplab.host.streams import OUTPUT, drop_output, prepare

EXAMPLES = """\
examples:
  rumplab status                          show what is installed
  rumplab smoke                           test the whole lab
  rumplab build hello -o hello.bin        build a unikernel from a Go or C program
  rumplab stage hello.bin -o hello.img    make a bootable image, without root
  rumplab run hello.img --wait --detach   start it, stopped before its first instruction
  rumplab debug hello main                attach GDB and run to main
  rumplab stop hello                      end the machine

'rumplab VERB --help' explains a verb. Exit status: 0 done, 1 failed, 2 the command line is wrong, 3 something that the
command needs is not installed, 4 the guest of 'run --on-panic' failed.
"""


def verb_module(verb: str) -> ModuleType:
    """Imports and returns the module that implements `verb`."""
    return importlib.import_module(f"rumplab.commands.{verb}")


class Parser(argparse.ArgumentParser):
    """A verb's parser. It differs from argparse's own in three points:

    - It refuses an empty value, which an unset shell variable leaves: `Path("")` is the working directory.
    - It keeps the value ``--`` of an option, which argparse drops.
    - For an option without its value, it tells how to write a value that begins with ``-``.
    """

    # The arguments for which an empty string is a value.
    MAY_BE_EMPTY = ("args", "append", "ex")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # PARSER means the arguments of a sub-command: its own parser checks them.
        if "" in arg_strings and action.nargs != argparse.PARSER and action.dest not in self.MAY_BE_EMPTY:
            raise argparse.ArgumentError(action, "is empty; is a variable unset?")
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        lacking = re.fullmatch(r"argument (\S+): expected one argument", message)
        if lacking:
            message += f"; write one that begins with '-' like this: {lacking[1].rpartition('/')[2]}=-x"
        super().error(message)


def verb_parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """Returns the argument parser of `verb`, which `module` implements."""
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
    """Returns the text of ``rumplab --help``."""
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:{width}}  {line}" for verb, line in VERBS.items())
    return f"usage: rumplab VERB [ARGUMENT…]\n       rumplab --version\n\nverbs:\n{rows}\n\n{EXAMPLES}"


def split_extra(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments before the first ``--`` and those after it."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def unknown(word: str) -> str:
    """Returns the error message for `word`, which is no verb."""
    # Imported here because difflib takes longer to load than all the rest.
    import difflib

    close = difflib.get_close_matches(word, VERBS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"rumplab: unknown verb '{word}'{hint}; 'rumplab --help' lists them"


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Stops garbage collection while modules load, and exempts their objects afterwards. These objects live until the
    process ends, so scanning them frees nothing. It would cost a tenth of a short command's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def dispatch(verb: str, arguments: list[str]) -> int:
    """Parses `arguments`, runs `verb` and returns its exit code. Does not catch the verb's errors."""
    with loading():
        module = verb_module(verb)
        parser = verb_parser(verb, module)
        if hasattr(module, "translate_old"):
            arguments = module.translate_old(arguments)
        extra: list[str] = []
        if getattr(module, "TAKES_EXTRA", False):
            arguments, extra = split_extra(arguments)
        args = parser.parse_args(arguments)
    args.words, args.extra = arguments, extra
    code: int = module.run(args)
    return code


def print_error(verb: str, message: str) -> None:
    """Prints the error on standard error, after the name of the verb."""
    print(f"{f'rumplab {verb}'.rstrip()}: {message}", file=sys.stderr)


def execute(arguments: list[str]) -> int:
    """Executes the command line and returns its exit code. Does not catch errors."""
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


def execute_and_flush(arguments: list[str]) -> int:
    """Like `execute`, and flushes standard output, so that `main` can report an error of writing."""
    try:
        code = execute(arguments)
    except SystemExit as stop:
        # argparse raises it after it has printed the help.
        if stop.code == 0:
            sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def program(arguments: list[str]) -> int:
    """Prepares the standard streams and the handler of SIGINT, then runs `main`."""
    prepare()
    # __main__ set SIG_DFL. From here on a verb may have to clean up, so Ctrl-C must raise KeyboardInterrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main(arguments)


def main(argv: list[str] | None = None) -> int:
    """Executes the command line `argv` (default: this process's) and returns the exit code, which
    docs/development/architecture.md explains. Prints an error of the verb on standard error."""
    arguments = sys.argv[1:] if argv is None else argv
    verb = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    try:
        return execute_and_flush(arguments)
    except RumplabError as error:
        print_error(verb, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader has closed the pipe. That is no error to report, but the flush at exit must not fail on it again.
        drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        remedy = "; free some space there" if error.errno == errno.ENOSPC else ""
        print_error(verb, f"{place}{error.strerror or error}{remedy}")
        # The buffer still holds what could not be written: without this, the flush at exit would fail again.
        if error.filename == OUTPUT:
            drop_output()
        return 1
