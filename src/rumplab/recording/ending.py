"""Completes the record of a recording after QEMU has ended. The first command that reads the recording does so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import locks
from rumplab.host.files import sha256
from rumplab.machine.registry import Machine, Machines
from rumplab.recording import log, record
from rumplab.recording.record import End, Recording

# QEMU prints this message once.
WRITE_ERROR = b"replay write error"


def runs(recording: Recording, machines: Machines) -> Machine | None:
    """Returns the machine that writes the recording; None if it has ended."""
    found = (machine for machine in machines.all() if machine.recording)
    return next((machine for machine in found if Path(machine.recording or "") == recording.directory), None)


def settled(recording: Recording, machines: Machines) -> Recording:
    """Returns `recording` with its end. RumplabError if its machine still runs, or if the log is empty or
    incomplete."""
    if recording.end is not None:
        return recording
    machine = runs(recording, machines)
    if machine is not None:
        raise RumplabError(
            f"{recording.name} is still being recorded by machine '{machine.name}' (pid {machine.pid}); stop it first:"
            f" rumplab stop {machine.name}"
        )
    with locks.held(recording.directory):
        # Another command may have completed it meanwhile.
        recording = replace(record.read(recording.directory), key=recording.key)
        return recording if recording.end is not None else ended(recording)


def ended(recording: Recording) -> Recording:
    """Writes the end of `recording` to its record, and returns it. If QEMU was killed, cuts the log after the last
    complete event. RumplabError if a part of the log may be missing: after a write error, QEMU continues and writes
    again later, so the position of the hole is unknown."""
    if not recording.log.exists():
        raise nothing(recording)
    if recording.messages.exists() and WRITE_ERROR in recording.messages.read_bytes():
        raise RumplabError(
            f"{recording.name} is incomplete: QEMU had no space for a part of its log; free some space, record the run"
            f" again, and remove this recording with: rumplab recording rm {recording.name}"
        )
    found = log.read(recording.log)
    whole = found.ended and found.version and not found.problem
    if not found.instructions:
        raise nothing(recording)
    if not whole:
        log.mend(recording.log, found)
    end = End(found.instructions, sha256(recording.log), sha256(recording.console), mended=not whole)
    done = replace(recording, end=end)
    record.write(done)
    return done


def nothing(recording: Recording) -> RumplabError:
    return RumplabError(
        f"{recording.name} is empty, since QEMU ended before it logged an instruction of the guest; remove it with:"
        f" rumplab recording rm {recording.name}"
    )
