"""Saves and loads the state of a running machine: memory, devices, and disks whose writes are discarded.

Each snapshot has a file of its own in the machine's directory, so that a snapshot that fails or is deleted gives its
space back. The guest doesn't see the files as disks, and they are removed when the machine ends. QEMU would save the
state of any other writable disk in that disk's own file, so rumplab refuses such a machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError, UsageError
from rumplab.host.answers import MALFORMED
from rumplab.machine import qmp
from rumplab.machine.registry import SNAPSHOTS, Machine

# QEMU's name of the node of snapshot number N is NODE with N, and that of its file's node has FILE added.
NODE = "rumplab-snapshot-"
FILE = "-file"
# The smallest disk; QEMU stores a machine's state beyond the disk's size.
DISK_SIZE = 65536
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ANSWER_SECONDS = 10.0
# For a large machine on a slow disk.
JOB_SECONDS = 300.0
POLL_SECONDS = 0.005
JOB = "rumplab-job"
QCOW2 = "qcow2"
# With less free space, QEMU's "Input/output error" means that the disk is full.
NO_SPACE = 1 << 20
JSON = "json:"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot. `size` is the size of the machine's state in bytes, `taken` is UNIX time, and `ran` is the guest's
    clock in seconds. `node` is QEMU's node of its file."""

    label: str
    size: int
    taken: int
    ran: float
    node: str = field(compare=False, repr=False)


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
    """Saves the state of `machine` as `label`. RumplabError names the disk or the device that can't be saved. If that
    fails, the machine goes on, and nothing of the snapshot is left."""
    check_label(label)
    check_not_recorded(machine)
    with connected(machine) as session:
        disks = kept_disks(machine, session)
        for number in unused(session):
            remove(machine, session, number)
        taken = listed(session)
        if any(one.label == label for one in taken):
            raise RumplabError(
                f"{machine.name} has a snapshot '{label}' already; choose another LABEL, or delete it:"
                f" rumplab snaps {machine.name} --delete {label}"
            )
        number = 1 + max((number_of(one.node) for one in taken), default=0)
        node = f"{NODE}{number}"
        try:
            provide(machine, session, number)
            job(machine, session, "snapshot-save", tag=label, vmstate=node, devices=[node, *disks])
        except BaseException:
            with contextlib.suppress(RumplabError, qmp.QmpError, OSError):
                remove(machine, session, number)
                job(machine, session, "snapshot-delete", tag=label, devices=disks)
            raise
        return find(machine, session, label)


def back(machine: Machine, label: str) -> Snapshot:
    """Loads the snapshot `label` of `machine`. A running machine continues from there."""
    check_label(label)
    with connected(machine) as session:
        snapshot = find(machine, session, label)
        disks = kept_disks(machine, session)
        node = snapshot.node
        job(machine, session, "snapshot-load", tag=label, vmstate=node, devices=[node, *disks])
        return snapshot


def delete(machine: Machine, label: str) -> None:
    """Deletes the snapshot `label` of `machine`."""
    check_label(label)
    with connected(machine) as session:
        node = find(machine, session, label).node
        job(machine, session, "snapshot-delete", tag=label, devices=[node, *kept_disks(machine, session)])
        remove(machine, session, number_of(node))


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
    """Returns the machine's snapshots, the oldest first."""
    found = [(number, read(one)) for number, one in nodes(session).items() if has_snapshot(one)]
    return [one for _, one in sorted(found, key=lambda pair: (pair[1].taken, pair[0]))]


def unused(session: qmp.Session) -> list[int]:
    """Returns the numbers of the nodes without a snapshot: of a `rumplab snap` that was killed."""
    return [number for number, one in nodes(session).items() if not has_snapshot(one)]


def nodes(session: qmp.Session) -> dict[int, dict[str, Any]]:
    """Returns QEMU's description of each snapshot's node, or of its file's node if it has no other, by number."""
    found: dict[int, dict[str, Any]] = {}
    for node in session.execute("query-named-block-nodes", {"flat": True}):
        name = str(node.get("node-name"))
        if name.startswith(NODE) and (not name.endswith(FILE) or number_of(name) not in found):
            found[number_of(name)] = node
    return found


def number_of(node: str) -> int:
    """Returns the number in the name of a snapshot's node, or of its file's node."""
    return int(node[len(NODE) :].partition("-")[0])


def has_snapshot(node: dict[str, Any]) -> bool:
    return bool(node["image"].get("snapshots"))


def read(node: dict[str, Any]) -> Snapshot:
    """Returns the snapshot in `node`, a BlockDeviceInfo of QEMU's QMP schema."""
    (data,) = node["image"]["snapshots"]
    return Snapshot(
        label=str(data["name"]),
        size=int(data["vm-state-size"]),
        taken=int(data["date-sec"]),
        ran=int(data["vm-clock-sec"]) + int(data["vm-clock-nsec"]) / 1e9,
        node=str(node["node-name"]),
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


def provide(machine: Machine, session: qmp.Session, number: int) -> None:
    """Makes the file of snapshot `number` and has QEMU open it."""
    path = file_path(machine, number)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    node, file_node = f"{NODE}{number}", f"{NODE}{number}{FILE}"
    job(machine, session, "blockdev-create", options={"driver": "file", "filename": str(path), "size": 0})
    session.execute("blockdev-add", {"driver": "file", "node-name": file_node, "filename": str(path)})
    job(machine, session, "blockdev-create", options={"driver": QCOW2, "file": file_node, "size": DISK_SIZE})
    session.execute("blockdev-add", {"driver": QCOW2, "node-name": node, "file": file_node})


def remove(machine: Machine, session: qmp.Session, number: int) -> None:
    """Closes and removes the file of snapshot `number`, as far as there is one."""
    for name in (f"{NODE}{number}", f"{NODE}{number}{FILE}"):
        with contextlib.suppress(qmp.Refused):
            session.execute("blockdev-del", {"node-name": name})
    file_path(machine, number).unlink(missing_ok=True)


def file_path(machine: Machine, number: int) -> Path:
    return machine.path / SNAPSHOTS / f"{number}.qcow2"


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
    if "No space left" in why or ("Input/output error" in why and shutil.disk_usage(machine.path).free < NO_SPACE):
        return RumplabError(
            f"no space left for a snapshot of {machine.name}; free some space in {machine.path}, for example delete a"
            f" snapshot: rumplab snaps {machine.name} --delete LABEL"
        )
    if "non-migratable" in why:
        remedy = "; QEMU can't save that device, so start the machine without it"
    elif "has not been found" in why:
        remedy = "; snapshots need QEMU 6.0 or later"
    return RumplabError(f"{machine.name}: {why}{remedy}")
