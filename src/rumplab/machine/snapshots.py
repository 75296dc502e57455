"""Saves and loads the state of a running machine: memory, devices, and disks whose writes are discarded.

The snapshots are in a file in the machine's directory, which the guest doesn't see as a disk, and which is removed when
the machine ends. QEMU would save the state of any other writable disk in that disk's own file, so rumplab refuses such
a machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError, UsageError
from rumplab.host.answers import MALFORMED
from rumplab.machine import qmp
from rumplab.machine.registry import SNAPSHOTS, Machine

NODE = "rumplab-snapshots"
FILE_NODE = "rumplab-snapshots-file"
# The smallest disk; QEMU stores a machine's state beyond the disk's size.
DISK_SIZE = 65536
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ANSWER_SECONDS = 10.0
# For a large machine on a slow disk.
JOB_SECONDS = 300.0
POLL_SECONDS = 0.005
JOB = "rumplab-job"
QCOW2 = "qcow2"
JSON = "json:"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot. `size` is the size of the machine's state in bytes, `taken` is UNIX time, and `ran` is the guest's
    clock in seconds."""

    label: str
    size: int
    taken: int
    ran: float


def check_not_recorded(machine: Machine) -> None:
    """RumplabError if `machine` is being recorded: QEMU's log can't repeat what the load of a snapshot does."""
    if machine.recording:
        raise RumplabError(
            f"{machine.name} is being recorded, and can't go back to a snapshot; stop it, and go to any instruction of"
            f" the recording with: rumplab debug {Path(machine.recording).name} --replay"
        )


def check_label(label: str) -> str:
    """Returns `label`. UsageError if it can't be the label of a snapshot."""
    # QEMU interprets digits as the number of a snapshot.
    if not LABEL.fullmatch(label) or label.isdecimal():
        raise UsageError(
            f"'{label}' is not a label for a snapshot; use up to 64 letters, digits, '.', '_' and '-',"
            " not only digits, with a letter or digit first"
        )
    return label


def take(machine: Machine, label: str) -> Snapshot:
    """Saves the state of `machine` as `label`. RumplabError names the disk or the device that can't be saved."""
    check_label(label)
    check_not_recorded(machine)
    with connected(machine) as session:
        disks = kept_disks(machine, session)
        provide(machine, session)
        if any(one.label == label for one in listed(session)):
            raise RumplabError(
                f"{machine.name} has a snapshot '{label}' already; choose another LABEL, or delete it:"
                f" rumplab snaps {machine.name} --delete {label}"
            )
        job(machine, session, "snapshot-save", tag=label, vmstate=NODE, devices=[NODE, *disks])
        return next(one for one in listed(session) if one.label == label)


def back(machine: Machine, label: str) -> Snapshot:
    """Loads the snapshot `label` of `machine`. A running machine continues from there."""
    check_label(label)
    with connected(machine) as session:
        snapshot = find(machine, session, label)
        disks = kept_disks(machine, session)
        job(machine, session, "snapshot-load", tag=label, vmstate=NODE, devices=[NODE, *disks])
        return snapshot


def delete(machine: Machine, label: str) -> None:
    """Deletes the snapshot `label` of `machine`."""
    check_label(label)
    with connected(machine) as session:
        find(machine, session, label)
        job(machine, session, "snapshot-delete", tag=label, devices=[NODE, *kept_disks(machine, session)])


def all_of(machine: Machine) -> list[Snapshot]:
    """Returns the snapshots of `machine`, the oldest first."""
    with connected(machine) as session:
        return listed(session)


@contextlib.contextmanager
def connected(machine: Machine) -> Iterator[qmp.Session]:
    """Yields a connection to the machine. Turns QEMU's errors into RumplabError with the machine's name."""
    try:
        with qmp.Session(machine.socket, ANSWER_SECONDS) as session:
            yield session
    except MALFORMED as error:
        raise RumplabError(
            f"{machine.name} gave an answer of an unknown format: {error}; is its QEMU too new?"
        ) from error
    except qmp.QmpError as error:
        raise RumplabError(f"{machine.name}: {error}; see its state with: rumplab ps") from error


def find(machine: Machine, session: qmp.Session, label: str) -> Snapshot:
    """Returns the snapshot `label`. RumplabError, with all labels, if there is none."""
    snapshots = listed(session)
    for one in snapshots:
        if one.label == label:
            return one
    labels = ", ".join(one.label for one in snapshots)
    raise RumplabError(
        f"{machine.name} has no snapshot '{label}'; "
        + (f"its snapshots are: {labels}" if labels else f"take one with: rumplab snap {machine.name} {label}")
    )


def listed(session: qmp.Session) -> list[Snapshot]:
    """Returns the snapshots in the machine's file; none if it has no such file yet."""
    for node in session.execute("query-named-block-nodes", {"flat": True}):
        if node.get("node-name") == NODE:
            return sorted(map(read, node["image"].get("snapshots", ())), key=lambda one: one.taken)
    return []


def read(data: dict[str, Any]) -> Snapshot:
    """Returns the snapshot that QEMU describes in `data`, a SnapshotInfo of its QMP schema."""
    return Snapshot(
        label=str(data["name"]),
        size=int(data["vm-state-size"]),
        taken=int(data["date-sec"]),
        ran=int(data["vm-clock-sec"]) + int(data["vm-clock-nsec"]) / 1e9,
    )


def kept_disks(machine: Machine, session: qmp.Session) -> list[str]:
    """Returns QEMU's node names of the disks whose writes are in temporary files, which snapshots include. RumplabError
    names a disk to whose own file the machine writes."""
    unwritten = {file for file, writes in machine.files if not writes}
    nodes = []
    for disk in session.execute("query-block"):
        inserted = disk.get("inserted")
        if not inserted or inserted["ro"]:
            continue
        if not is_temporary(inserted, unwritten):
            raise RumplabError(
                f"{machine.name} writes to {file_of(inserted)}, and a snapshot would change that file; start it"
                + (" without --persist" if machine.guest else " with --snapshot, which discards its writes")
            )
        nodes.append(str(inserted["node-name"]))
    return nodes


def is_temporary(inserted: dict[str, Any], unwritten: set[str]) -> bool:
    """Returns whether a disk's writes go to a temporary file, which QEMU has made and which is removed when it ends."""
    if inserted["drv"] != QCOW2:
        return False
    return inserted.get("backing_file") in unwritten or not os.path.exists(file_of(inserted))


def file_of(inserted: dict[str, Any]) -> str:
    """Returns the file to which a disk's writes go."""
    name = str(inserted["file"])
    if name.startswith(JSON):
        file = json.loads(name[len(JSON) :])["file"]
        return str(file["filename"] if isinstance(file, dict) else file)
    return name


def provide(machine: Machine, session: qmp.Session) -> None:
    """Makes the machine's file for snapshots and has QEMU open it, unless it is open already."""
    nodes = {node.get("node-name") for node in session.execute("query-named-block-nodes", {"flat": True})}
    if NODE in nodes:
        return
    path = str(machine.path / SNAPSHOTS)
    if FILE_NODE not in nodes:
        job(machine, session, "blockdev-create", options={"driver": "file", "filename": path, "size": 0})
        session.execute("blockdev-add", {"driver": "file", "node-name": FILE_NODE, "filename": path})
    job(machine, session, "blockdev-create", options={"driver": QCOW2, "file": FILE_NODE, "size": DISK_SIZE})
    session.execute("blockdev-add", {"driver": QCOW2, "node-name": NODE, "file": FILE_NODE})


def job(machine: Machine, session: qmp.Session, command: str, **arguments: Any) -> None:
    """Starts a QEMU job with `command` and waits until it ends. RumplabError with QEMU's message if it fails."""
    name = f"{JOB}-{os.getpid()}"
    try:
        session.execute(command, {"job-id": name, **arguments}, JOB_SECONDS)
    except qmp.Refused as error:
        raise failed(machine, str(error)) from error
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        # QEMU doesn't answer while it saves or loads the state.
        (state,) = [one for one in session.execute("query-jobs", None, JOB_SECONDS) if one["id"] == name]
        if state["status"] == "concluded":
            session.execute("job-dismiss", {"id": name})
            if state.get("error"):
                raise failed(machine, str(state["error"]))
            return
        time.sleep(POLL_SECONDS)
    raise RumplabError(f"{machine.name} has not finished within {JOB_SECONDS:.0f} s; is the host busy?")


def failed(machine: Machine, why: str) -> RumplabError:
    """Returns the error for QEMU's message `why`, with the remedy if that is known."""
    remedy = ""
    if "No space left" in why:
        remedy = f"; free some space in {machine.path}"
    elif "non-migratable" in why:
        remedy = "; QEMU can't save that device, so start the machine without it"
    elif "has not been found" in why:
        remedy = "; snapshots need QEMU 6.0 or later"
    return RumplabError(f"{machine.name}: {why}{remedy}")
