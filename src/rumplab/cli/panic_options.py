"""The options of what is done when a guest fails."""

from __future__ import annotations

import argparse
import os
import re
import sys

from rumplab.errors import UsageError
from rumplab.gdb import command_line
from rumplab.lab.config import Lab
from rumplab.postmortem import wishes as panic
from rumplab.postmortem.wishes import Wishes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-panic",
        metavar="ACTION[,ACTION…]",
        type=actions,
        help="when the guest fails: dump (its memory, and a trace), debug (that, in GDB, then), stop (leave it stopped"
        " there), script:FILE (of GDB commands for the dump); see docs/commands/dump.md",
    )
    parser.add_argument(
        "--panic-pattern",
        metavar="REGEX",
        type=pattern,
        help="with --on-panic: it has failed when a line of its serial console matches this",
    )


def add_success(parser: argparse.ArgumentParser) -> None:
    """Of a machine that its guest can end."""
    parser.add_argument(
        "--success",
        metavar="STATUS",
        type=status,
        help=f"with --on-panic and --exit-device: the status that is no failure (default: {panic.SUCCESS})",
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
        raise argparse.ArgumentTypeError(f"'{text}' is no status that --exit-device gives; use an odd number up to 255")
    return int(text)


def wishes(args: argparse.Namespace, lab: Lab, detached: bool) -> Wishes | None:
    """What the options ask for; None for nothing. UsageError where they contradict one another, RumplabError where
    something that they need isn't there."""
    exits, success = getattr(args, "exit_device", False), getattr(args, "success", None)
    if success is not None and not (exits and args.on_panic):
        raise UsageError("--success goes with --on-panic and --exit-device")
    if args.on_panic is None:
        if args.panic_pattern is not None:
            raise UsageError("--panic-pattern goes with --on-panic, which says what is to be done then")
        return None
    wanted, script = args.on_panic
    if panic.DEBUG in wanted:
        if detached or not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError(
                "--on-panic debug opens the debugger on this terminal, and there is none; use stop, and attach then"
            )
        if panic.STOP in wanted:
            raise UsageError("--on-panic debug is for what is left of the machine, and stop keeps it; choose one")
    command_line.check_files(script)
    if wanted != (panic.STOP,):
        # Better now than when it has failed.
        command_line.debugger(lab)
    return Wishes(
        actions=wanted,
        script=os.path.abspath(script) if script else None,
        pattern=args.panic_pattern,
        directory=os.getcwd(),
        wait=args.wait,
        exits=exits,
        success=panic.SUCCESS if success is None else success,
    )
