"""The end of a recording: found out by whoever first looks at it after QEMU has gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import locks
from rumplab.host.files import sha256
from rumplab.machine.registry import Machine, Machines
from rumplab.recording import log, record
from rumplab.recording.record import End, Recording

# What QEMU says, once.
WRITE_ERROR = b"replay write error"


def runs(recording: Recording, machines: Machines) -> Machine | None:
    """The machine that is being recorded, if it still runs."""
    found = (machine for machine in machines.all() if machine.recording)
    return next((machine for machine in found if Path(machine.recording or "") == recording.directory), None)


def settled(recording: Recording, machines: Machines) -> Recording:
    """`recording` with its end. RumplabError while its machine runs, and where nothing was recorded."""
    if recording.end is not None:
        return recording
    machine = runs(recording, machines)
    if machine is not None:
        raise RumplabError(
            f"{recording.name} is still being recorded by machine '{machine.name}' (pid {machine.pid}); end that first:"
            f" rumplab stop {machine.name}"
        )
    with locks.held(recording.directory):
        # Another command may have been quicker.
        recording = record.read(recording.directory)
        return recording if recording.end is not None else ended(recording)


def ended(recording: Recording) -> Recording:
    """`recording`, of which QEMU has gone, with its end on record. The log of a QEMU that was killed is cut behind its
    last whole event. RumplabError where a part of the log may be missing: QEMU goes on where it can't write, and writes
    again as soon as it can, so that nobody knows where the hole is."""
    if not recording.log.exists():
        raise nothing(recording)
    if recording.messages.exists() and WRITE_ERROR in recording.messages.read_bytes():
        raise RumplabError(
            f"{recording.name} ended early: QEMU found no space for its log, and a part of it is missing; the run"
            " itself went on. Free some space, record it again, and remove this one with: rumplab recording rm"
            f" {recording.name}"
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
        f"{recording.name} holds nothing: QEMU ended before the guest's first instruction was logged; remove it with:"
        f" rumplab recording rm {recording.name}"
    )
