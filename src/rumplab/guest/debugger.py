"""Stops a guest's kernel in its debugger and prepares GDB's session with it."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator

from rumplab.errors import RumplabError
from rumplab.gdb import command_line, kgdb_commands
from rumplab.gdb.kgdb_commands import KgdbSession
from rumplab.guest import ipkdb, kernel_debugger, kernels, lines
from rumplab.guest.definition import IPKDB, LINUX, Guest
from rumplab.guest.lines import DEBUGGER, socket_path
from rumplab.host.process import own_command
from rumplab.lab.config import Lab
from rumplab.machine.registry import Machine

# How long a boot takes from the firmware to the kernel's debugger, on a slow host without an accelerator.
BOOT_SECONDS = 120.0
POLL_SECONDS = 0.002


def until_waiting(machine: Machine, seconds: float) -> None:
    """Waits until a kernel that was started with its debugger has stopped in it. RumplabError after `seconds`, or when
    the machine has ended."""
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
    """Returns when the kernel is in its debugger. RumplabError when it runs and `args` doesn't allow to interrupt it.
    `first` tells that no debugger has attached to it yet."""
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
            f"{machine.name} runs; stop it in its debugger first: rumplab guest break {machine.name}; or use --break;"
            " a kernel without a debugger of its own is debugged with --qemu-stub"
        )
    kernel_debugger.interrupt(machine, guest, confirm=True)


def gdb_session(
    lab: Lab, guest: Guest, machine: Machine, qemu_stub: bool, key_file: str | None = None, version: str | None = None
) -> KgdbSession:
    """The description of the guest's stub, symbols and sources for a GDB of `version`."""
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
        # Linux ignores a BREAK on the debugger's line, so a command stops it.
        interrupt=tuple(own_command("guest", "break", guest.name)) if linux else (),
        symbols=machine.program,
        sources=((guest.source_name, sources),) if sources else (),
    )


@contextlib.contextmanager
def line_of(lab: Lab, machine: Machine, args: argparse.Namespace) -> Iterator[int]:
    """Takes the lock of the debugger's line and yields the open file that holds it. RumplabError names the process that
    has the line."""
    what, remedy = lines.second_debugger(machine)
    by_network = machine.guest == IPKDB and not args.qemu_stub
    if not by_network:
        with lines.held(machine, lines.STUB if args.qemu_stub else DEBUGGER, what, remedy) as handle:
            yield handle
        return
    locked = lines.lock(machine, IPKDB)
    # 'rumplab ipkdb' takes no lock, so a free lock doesn't exclude another debugger.
    who = lines.holder(machine, IPKDB) if locked is None else ipkdb.debugger(machine, lab)
    if locked is None or who:
        raise RumplabError(f"{what} ({who}); {remedy}")
    yield locked
