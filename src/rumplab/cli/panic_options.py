"""The options that say what rumplab does when a guest fails."""

from __future__ import annotations

import argparse
import os
import re
import sys

from rumplab.errors import UsageError
from rumplab.gdb import command_line
from rumplab.lab.config import Lab
from rumplab.postmortem import panic_policy as panic
from rumplab.postmortem.panic_policy import PanicPolicy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-panic",
        metavar="ACTION[,ACTION…]",
        type=actions,
        help="if the guest fails: dump (write a dump, print a trace), debug (and open it in GDB), stop (leave the"
        " machine stopped), script:FILE (run these GDB commands on the dump)",
    )
    parser.add_argument(
        "--panic-pattern",
        metavar="REGEX",
        type=pattern,
        help="with --on-panic: the guest has failed if a line of its serial console matches this",
    )


def add_success(parser: argparse.ArgumentParser) -> None:
    """Adds the option for machines that the guest can end."""
    parser.add_argument(
        "--success",
        metavar="STATUS",
        type=status,
        help=f"with --on-panic and --exit-device: the exit status of success (default: {panic.SUCCESS})",
    )


def actions(text: str) -> tuple[tuple[str, ...], str | None]:
    try:
        return panic.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def pattern(text: str) -> str:
    try:
        return panic.pattern(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def status(text: str) -> int:
    if not re.fullmatch("[0-9]{1,3}", text, re.ASCII) or int(text) > 255 or not int(text) % 2:
        raise argparse.ArgumentTypeError(f"'{text}' is not a status of --exit-device; use an odd number up to 255")
    return int(text)


def policy(args: argparse.Namespace, lab: Lab, detached: bool) -> PanicPolicy | None:
    """Returns the policy that the options ask for; None without --on-panic. UsageError if options contradict each
    other, RumplabError if a file or GDB is missing."""
    exits, success = getattr(args, "exit_device", False), getattr(args, "success", None)
    if success is not None and not (exits and args.on_panic):
        raise UsageError("--success goes with --on-panic and --exit-device; add them")
    if args.on_panic is None:
        if args.panic_pattern is not None:
            raise UsageError("--panic-pattern goes with --on-panic ACTION; add it")
        return None
    wanted, script = args.on_panic
    if panic.DEBUG in wanted:
        if detached or not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError(
                "--on-panic debug opens GDB on this terminal, and there is none; use --on-panic stop, and attach later"
            )
        if panic.STOP in wanted:
            raise UsageError(
                "--on-panic debug opens GDB after the machine has ended, and stop keeps the machine; choose one"
            )
    command_line.check_files(script)
    if wanted != (panic.STOP,):
        # Without GDB, fail before the machine starts.
        command_line.debugger(lab)
    return PanicPolicy(
        actions=wanted,
        script=os.path.abspath(script) if script else None,
        pattern=args.panic_pattern,
        directory=os.getcwd(),
        wait=args.wait,
        exits=exits,
        success=panic.SUCCESS if success is None else success,
    )
