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

from rumplab import config, gdbcall
from rumplab.config import Lab
from rumplab.durations import seconds
from rumplab.errors import RumplabError, UsageError
from rumplab.guest import attach, gdbside, ipkdb, kernels, stub
from rumplab.guest.attach import DEBUGGER, socket_path
from rumplab.guest.definition import IPKDB, LINUX, Guest, open_guests, require_running
from rumplab.guest.gdbside import KgdbSession
from rumplab.machines import Machine, open_machines
from rumplab.process import itself
from rumplab.streams import script

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
    gdbcall.add_command_arguments(parser)
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
    while not stub.waits(machine):
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
    stub.require_executing(machine)
    if machine.guest == IPKDB:
        ipkdb.until_waiting(machine, lab, args.timeout)
        return
    if machine.guest == "kgdb" and (first or not stub.waits(machine)):
        until_waiting(machine, args.timeout)
        return
    if stub.stopped(machine):
        return
    if not args.interrupt:
        raise RumplabError(
            f"{machine.name} runs; stop it in its debugger first: rumplab guest break {machine.name}; or use --break;"
            " a kernel without a debugger of its own is debugged with --qemu-stub"
        )
    stub.interrupt(machine, guest, confirm=True)


def gdb_session(
    lab: Lab, guest: Guest, machine: Machine, qemu_stub: bool, key_file: str | None = None, version: str | None = None
) -> KgdbSession:
    """What GDB, of `version`, is to know of the guest."""
    sources = kernels.sources(lab, guest)
    linux = guest.kind == LINUX
    own = gdbside.IPKDB if machine.guest == IPKDB else gdbside.LINUX_KGDB if linux else gdbside.KGDB
    return KgdbSession(
        stub=gdbside.QEMU if qemu_stub else own,
        architecture=guest.arch,
        bridge=tuple(ipkdb.bridge_argv(machine, key_file)) if own == gdbside.IPKDB else (),
        socket=str(socket_path(machine, DEBUGGER)),
        remote=gdbcall.remote(machine.stub, version),
        control=None if linux else str(machine.socket),
        line=DEBUGGER,
        # A BREAK on the debugger's line means nothing to Linux.
        interrupt=tuple(itself("guest", "break", guest.name)) if linux else (),
        symbols=machine.program,
        sources=((guest.source_name, sources),) if sources else (),
    )


def attach_commands(session: KgdbSession, location: str | None) -> list[str]:
    """GDB's commands up to where the user's begin."""
    commands = gdbside.commands(session)
    if session.stub != gdbside.QEMU:
        # The lab's gdbinit warns of breakpoints that a loader would overwrite; this kernel has been loaded.
        commands.append("set $rumplab_hinted = 1")
    if location is None:
        return commands
    # Under QEMU's stub the kernel may have yet to be loaded, over any breakpoint that is an instruction.
    how = "hbreak" if session.stub == gdbside.QEMU else "break"
    return [*commands, *gdbcall.run_to(location, how)]


@contextlib.contextmanager
def line_of(lab: Lab, machine: Machine, args: argparse.Namespace) -> Iterator[int]:
    """Holds the lock of the debugger's line, which is kept by the open file that it yields. RumplabError names
    whoever has it."""
    what, remedy = attach.second_debugger(machine)
    by_network = machine.guest == IPKDB and not args.qemu_stub
    if not by_network:
        with attach.held(machine, attach.STUB if args.qemu_stub else DEBUGGER, what, remedy) as handle:
            yield handle
        return
    locked = attach.lock(machine, IPKDB)
    # 'rumplab ipkdb' needs no lock.
    who = attach.holder(machine, IPKDB) if locked is None else ipkdb.debugger(machine, lab)
    if locked is None or who:
        raise RumplabError(f"{what} ({who}); {remedy}")
    yield locked


def run(args: argparse.Namespace) -> int:
    location = gdbcall.checked_location(args.location)
    gdbcall.check_files(args.symbols, *args.script)
    lab = config.load()
    guest = open_guests(lab).find(args.name)
    machine = require_running(open_machines(lab), guest)
    check_way(machine, args)
    gdb, gdbinit = gdbcall.debugger(lab)
    program = os.path.abspath(args.symbols) if args.symbols else gdbcall.symbols_of(machine)
    machine = replace(machine, program=program)
    session = gdbcall.Session(
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
    version = lab.component(gdbcall.COMPONENT).version
    commands = attach_commands(gdb_session(lab, guest, machine, args.qemu_stub, key_file, version), location)
    argv = gdbcall.command_line(session, commands)
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
    gdbcall.check_files(args.key_file)
    if by_network and args.interrupt:
        ipkdb.refuse_interrupt(machine)


def become(argv: list[str], lab: Lab, machine: Machine, guest: Guest, args: argparse.Namespace) -> NoReturn:
    """Turns this process into GDB, once the kernel is in its debugger."""
    first = stub.first_time(machine)
    with line_of(lab, machine, args) as handle:
        if not args.qemu_stub:
            bring_in(lab, machine, guest, args, first)
        gdbcall.replace_process(argv, args.batch, handle)
