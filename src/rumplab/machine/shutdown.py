"""Ends a machine: asks QEMU first, then sends signals. Each step has a time limit."""

from __future__ import annotations

from rumplab.host import process
from rumplab.machine import qmp
from rumplab.machine.registry import Machine, Machines

START_SECONDS = 5.0
QUIT_SECONDS = 5.0
POWERDOWN_SECONDS = 30.0


def ask(machine: Machine, command: str, patience: float) -> bool:
    """Sends one command to QEMU's control socket. Returns whether the machine ended within `patience` seconds."""
    try:
        qmp.execute(machine.socket, command)
    except qmp.QmpError:
        # QEMU may close the socket before it answers `quit`. If it didn't read the command, the caller sends signals.
        return process.wait_gone(machine.pid, machine.token, 0.2)
    return process.wait_gone(machine.pid, machine.token, patience)


def end(machines: Machines, machine: Machine, powerdown: bool = False) -> bool:
    """Ends one machine and retires its record. With `powerdown`, presses the machine's power button first. Returns
    whether the machine has ended."""
    # During a start the record names the launcher. If that were killed now, QEMU might run on.
    running = machines.started(machine, START_SECONDS)
    if running is None:
        return not machine.alive()
    machine = running
    ended = powerdown and ask(machine, "system_powerdown", POWERDOWN_SECONDS)
    ended = ended or ask(machine, "quit", QUIT_SECONDS) or process.terminate(machine.pid, machine.token)
    if ended:
        machines.retire(machine)
    return ended
