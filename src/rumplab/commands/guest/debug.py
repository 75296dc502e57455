"""``rumplab guest debug``."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

from rumplab.cli.durations import seconds
from rumplab.errors import RumplabError, UsageError
from rumplab.gdb import command_line, kgdb_commands
from rumplab.gdb.kgdb_commands import KgdbSession
from rumplab.guest import ipkdb, kernel_debugger, kernels, lines
from rumplab.guest.definition import IPKDB, LINUX, Guest, open_guests, require_running
from rumplab.guest.lines import DEBUGGER, socket_path
from rumplab.host.process import itself
from rumplab.host.streams import script
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine.registry import Machine, open_machines

HELP = "attach the lab's GDB to a guest's kernel, its symbols loaded"
EPILOG = """\
With SYMBOL: a breakpoint there, and on to it. Commands given by --ex and --script run after that, in this order.
What follows '--' goes to GDB as it is. Ctrl-C stops the kernel in its debugger, by a BREAK on its serial line; one that
was started with --ipkdb is reached by 'rumplab ipkdb', and can't be stopped.

examples:
  rumplab guest debug nb                        a guest that waits
  rumplab guest debug nb sys_sync               run to sys_sync
  rumplab guest debug nb --break                a guest that runs: stop it first
  rumplab guest debug nb --batch --ex bt --ex nb-dmesg
  rumplab guest debug nb --qemu-stub            by QEMU's stub, whatever the kernel does
  rumplab guest debug nb8 --key-file ipkdb.key  by IPKDB, with another key than the lab's
  rumplab guest debug nb --dry-run              print the GDB command instead
"""
TAKES_EXTRA = True
# From the firmware to a kernel's debugger, without an accelerator on a slow host.
BOOT_SECONDS = 120.0
POLL_SECONDS = 0.002


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab guest debug NAME [SYMBOL] [OPTION…] [-- GDB-ARGUMENT…]"
    parser.add_argument("name", metavar="NAME", help="the guest")
    parser.add_argument("location", metavar="SYMBOL", nargs="?", help="where to break and run to")
    command_line.add_command_arguments(parser)
    parser.add_argument("--break", action="store_true", dest="interrupt", help="stop a kernel that runs first")
    parser.add_argument("--qemu-stub", action="store_true", help="by QEMU's stub, not the kernel's own debugger")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=BOOT_SECONDS,
        metavar="SECONDS",
        help="for a kernel that has yet to come up (default: 120)",
    )
    parser.add_argument("--key-file", metavar="FILE", help="of a guest with IPKDB: its key (default: the lab's)")
    parser.add_argument("--dry-run", action="store_true", help="print the GDB command and do nothing")


def until_waiting(machine: Machine, seconds: float) -> None:
    """Waits until a kernel that was started to wait in its debugger does. RumplabError when it doesn't."""
    deadline = time.monotonic() + seconds
    while not kernel_debugger.waits(machine):
        if not machine.alive():
            raise RumplabError(f"{machine.name} has ended; read its console with: rumplab logs {machine.name}")
        if time.monotonic() >= deadline:
            raise RumplabError(
                f"the kernel of {machine.name} does not wait for a debugger {seconds:.0f} s after it was asked to;"
                f" look at its console: rumplab logs {machine.name}"
            )
        time.sleep(POLL_SECONDS)


def bring_in(lab: Lab, machine: Machine, guest: Guest, args: argparse.Namespace, first: bool) -> None:
    """Returns when the kernel is in its debugger. RumplabError when it runs and isn't to be interrupted. With
    `first`, nobody has debugged it yet."""
    kernel_debugger.require_executing(machine)
    if machine.guest == IPKDB:
        ipkdb.until_waiting(machine, lab, args.timeout)
        return
    if machine.guest == "kgdb" and (first or not kernel_debugger.waits(machine)):
        until_waiting(machine, args.timeout)
        return
    if kernel_debugger.stopped(machine):
        return
    if not args.interrupt:
        raise RumplabError(
            f"{machine.name} runs; stop it in its debugger first: rumplab guest break {machine.name}; or use --break"
        )
    kernel_debugger.interrupt(machine, guest, confirm=True)


def gdb_session(
    lab: Lab, guest: Guest, machine: Machine, qemu_stub: bool, key_file: str | None = None, version: str | None = None
) -> KgdbSession:
    """What GDB, of `version`, is to know of the guest."""
    sources = kernels.sources(lab, guest)
    linux = guest.kind == LINUX
    own = kgdb_commands.IPKDB if machine.guest == IPKDB else kgdb_commands.LINUX_KGDB if linux else kgdb_commands.KGDB
    return KgdbSession(
        stub=kgdb_commands.QEMU if qemu_stub else own,
        architecture=guest.arch,
        bridge=tuple(ipkdb.bridge_argv(machine, key_file)) if own == kgdb_commands.IPKDB else (),
        socket=str(socket_path(machine, DEBUGGER)),
        remote=command_line.remote(machine.stub, version),
        control=None if linux else str(machine.socket),
        line=DEBUGGER,
        # A BREAK on the debugger's line means nothing to Linux.
        interrupt=tuple(itself("guest", "break", guest.name)) if linux else (),
        symbols=machine.program,
        sources=((guest.source_name, sources),) if sources else (),
    )


def attach_commands(session: KgdbSession, location: str | None) -> list[str]:
    """GDB's commands up to where the user's begin."""
    commands = kgdb_commands.commands(session)
    if session.stub != kgdb_commands.QEMU:
        # The lab's gdbinit warns of breakpoints that a loader would overwrite; this kernel has been loaded.
        commands.append("set $rumplab_hinted = 1")
    if location is None:
        return commands
    # Under QEMU's stub the kernel may have yet to be loaded, over any breakpoint that is an instruction.
    how = "hbreak" if session.stub == kgdb_commands.QEMU else "break"
    return [*commands, *command_line.run_to(location, how)]


@contextlib.contextmanager
def line_of(lab: Lab, machine: Machine, args: argparse.Namespace) -> Iterator[int]:
    """Holds the lock of the debugger's line, which is kept by the open file that it yields. RumplabError names
    whoever has it."""
    what, remedy = lines.second_debugger(machine)
    by_network = machine.guest == IPKDB and not args.qemu_stub
    if not by_network:
        with lines.held(machine, lines.STUB if args.qemu_stub else DEBUGGER, what, remedy) as handle:
            yield handle
        return
    locked = lines.lock(machine, IPKDB)
    # 'rumplab ipkdb' needs no lock.
    who = lines.holder(machine, IPKDB) if locked is None else ipkdb.debugger(machine, lab)
    if locked is None or who:
        raise RumplabError(f"{what} ({who}); {remedy}")
    yield locked


def run(args: argparse.Namespace) -> int:
    location = command_line.checked_location(args.location)
    command_line.check_files(args.symbols, *args.script)
    lab = config.load()
    guest = open_guests(lab).find(args.name)
    machine = require_running(open_machines(lab), guest)
    check_way(machine, args)
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
        become(argv, lab, machine, guest, args)
    return 0


def check_way(machine: Machine, args: argparse.Namespace) -> None:
    """RumplabError for what the guest's way of being debugged can't do. UsageError for a key where none is used."""
    by_network = machine.guest == IPKDB and not args.qemu_stub
    if args.key_file and not by_network:
        raise UsageError("--key-file is for a guest that was started with --ipkdb")
    command_line.check_files(args.key_file)
    if by_network and args.interrupt:
        ipkdb.refuse_interrupt(machine)


def become(argv: list[str], lab: Lab, machine: Machine, guest: Guest, args: argparse.Namespace) -> NoReturn:
    """Turns this process into GDB, once the kernel is in its debugger."""
    first = kernel_debugger.first_time(machine)
    with line_of(lab, machine, args) as handle:
        if not args.qemu_stub:
            bring_in(lab, machine, guest, args, first)
        command_line.replace_process(argv, args.batch, handle)
