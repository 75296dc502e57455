"""The present state of a machine."""

from __future__ import annotations

from rumplab.machine import qmp
from rumplab.machine.registry import Machine


def run_state(machine: Machine) -> str:
    """Returns QEMU's run state; 'starting' if QEMU doesn't run yet, 'no answer' if it doesn't answer."""
    try:
        return qmp.status(machine.socket, timeout=0.5)
    except qmp.QmpError:
        return "starting" if machine.starting else "no answer"
