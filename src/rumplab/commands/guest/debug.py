"""``rumplab guest debug``: attaches the lab's GDB to a guest's kernel."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from typing import NoReturn

from rumplab.cli.arguments import seconds
from rumplab.errors import UsageError
from rumplab.gdb import command_line, kgdb_commands
from rumplab.gdb.kgdb_commands import KgdbSession
from rumplab.guest import ipkdb, kernel_debugger
from rumplab.guest.debugger import BOOT_SECONDS, bring_in, gdb_session, line_of
from rumplab.guest.definition import IPKDB, Guest, open_guests, require_running
from rumplab.host.streams import script
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine.registry import Machine, open_machines

EPILOG = """\
The command waits until the kernel is in its debugger, and starts GDB. With SYMBOL, GDB sets a breakpoint there and runs
the kernel to it. Then GDB executes the commands of --ex, then those of --script. What follows '--' goes to GDB
unchanged. Ctrl-C in GDB sends a BREAK on the serial line, which stops the kernel in kgdb. A guest that was started with
--ipkdb is reached through 'rumplab ipkdb connect', and can't be stopped once it runs.

examples:
  rumplab guest debug nb                        a guest that waits in its debugger
  rumplab guest debug nb sys_sync               run to sys_sync
  rumplab guest debug nb --break                a guest that runs: stop it, then attach
  rumplab guest debug nb --batch --ex bt --ex nb-dmesg
  rumplab guest debug nb --qemu-stub            by QEMU's stub, whatever the kernel does
  rumplab guest debug nb8 --key-file ipkdb.key  by IPKDB, with another key than the lab's
  rumplab guest debug nb --dry-run              print the GDB command instead
"""
TAKES_EXTRA = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab guest debug NAME [SYMBOL] [OPTION…] [-- GDB-ARGUMENT…]"
    parser.add_argument("name", metavar="NAME", help="the guest")
    parser.add_argument(
        "location",
        metavar="SYMBOL",
        nargs="?",
        help="a function, FILE:LINE or *ADDRESS to run to; 'if CONDITION' may follow",
    )
    command_line.add_command_arguments(parser)
    parser.add_argument("--break", action="store_true", dest="interrupt", help="if the kernel runs, stop it first")
    parser.add_argument("--qemu-stub", action="store_true", help="use QEMU's debug stub, not the kernel's own debugger")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=BOOT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for the kernel to enter its debugger (default: 120)",
    )
    parser.add_argument(
        "--key-file", metavar="FILE", help="for a guest with IPKDB: a file with its key (default: the lab's key)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the GDB command and do nothing")


def attach_commands(session: KgdbSession, location: str | None) -> list[str]:
    """Returns the GDB commands that attach and run to `location`. The user's commands follow them."""
    commands = kgdb_commands.commands(session)
    if session.stub != kgdb_commands.QEMU:
        # The lab's gdbinit warns that a loader may overwrite breakpoints. This kernel is loaded, so turn that off.
        commands.append("set $rumplab_hinted = 1")
    if location is None:
        return commands
    # With QEMU's stub the kernel may not be loaded yet: the loader would overwrite a software breakpoint.
    how = "hbreak" if session.stub == kgdb_commands.QEMU else "break"
    return [*commands, *command_line.run_to(location, how)]


def run(args: argparse.Namespace) -> int:
    location = command_line.checked_location(args.location)
    command_line.check_files(args.symbols, *args.script)
    lab = config.load()
    guest = open_guests(lab).find(args.name)
    machine = require_running(open_machines(lab), guest)
    check_mode(machine, args)
    gdb, gdbinit = command_line.debugger(lab)
    program = os.path.abspath(args.symbols) if args.symbols else command_line.symbols_of(machine)
    machine = replace(machine, program=program)
    session = command_line.Session(
        gdb=gdb,
        gdbinit=gdbinit,
        remote=machine.stub,
        program=program,
        commands=tuple(args.ex),
        scripts=tuple(args.script),
        batch=args.batch,
        extra=tuple(args.extra),
    )
    key_file = os.path.abspath(args.key_file) if args.key_file else None
    version = lab.component(command_line.COMPONENT).version
    commands = attach_commands(gdb_session(lab, guest, machine, args.qemu_stub, key_file, version), location)
    argv = command_line.command_line(session, commands)
    if args.dry_run:
        script(shlex.join(argv) + "\n")
    else:
        execute(argv, lab, machine, guest, args)
    return 0


def check_mode(machine: Machine, args: argparse.Namespace) -> None:
    """Checks the options against how the guest was started. UsageError for a key without IPKDB, RumplabError for
    --break with IPKDB, and for a serial line of a guest that is being recorded."""
    by_network = machine.guest == IPKDB and not args.qemu_stub
    if not by_network and not args.qemu_stub:
        kernel_debugger.refuse_recorded(machine)
    if args.key_file and not by_network:
        raise UsageError("--key-file is for a guest that was started with --ipkdb; leave it out")
    command_line.check_files(args.key_file)
    if by_network and args.interrupt:
        ipkdb.refuse_interrupt(machine)


def execute(argv: list[str], lab: Lab, machine: Machine, guest: Guest, args: argparse.Namespace) -> NoReturn:
    """Waits until the kernel is in its debugger, then replaces this process by GDB."""
    first = kernel_debugger.first_time(machine)
    with line_of(lab, machine, args) as handle:
        if not args.qemu_stub:
            bring_in(lab, machine, guest, args, first)
        command_line.replace_process(argv, args.batch, handle)
