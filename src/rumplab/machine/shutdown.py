"""Ending a machine, politely first, within a bounded time."""

from __future__ import annotations

from rumplab.host import process
from rumplab.machine import qmp
from rumplab.machine.registry import Machine, Machines

START_SECONDS = 5.0
QUIT_SECONDS = 5.0
POWERDOWN_SECONDS = 30.0


def ask(machine: Machine, command: str, patience: float) -> bool:
    """Sends one command to QEMU's control socket; whether the machine ended within `patience` seconds."""
    try:
        qmp.execute(machine.socket, command)
    except qmp.QmpError:
        # Quitting may close the socket before the answer; a machine that doesn't listen gets signals.
        return process.wait_gone(machine.pid, machine.token, 0.2)
    return process.wait_gone(machine.pid, machine.token, patience)


def end(machines: Machines, machine: Machine, powerdown: bool = False) -> bool:
    """Ends one machine and retires its record; whether it is gone."""
    # While it starts, the process on record is its launcher, which killed now would leave QEMU behind.
    running = machines.started(machine, START_SECONDS)
    if running is None:
        return not machine.alive()
    machine = running
    gone = powerdown and ask(machine, "system_powerdown", POWERDOWN_SECONDS)
    gone = gone or ask(machine, "quit", QUIT_SECONDS) or process.terminate(machine.pid, machine.token)
    if gone:
        machines.retire(machine)
    return gone
