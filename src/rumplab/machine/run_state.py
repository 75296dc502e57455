"""What a machine that is on record does at the moment."""

from __future__ import annotations

from rumplab.machine import qmp
from rumplab.machine.registry import Machine


def run_state(machine: Machine) -> str:
    """QEMU's run state, 'starting' before it answers."""
    try:
        return qmp.status(machine.socket, timeout=0.5)
    except qmp.QmpError:
        return "starting" if machine.starting else "no answer"
