"""Snapshots of a machine while it runs: its memory, its devices, and disks whose writes are thrown away.

They are kept in a file of the machine's own, which no guest sees as a disk, and end with the machine. A disk that is
written to would have to be kept with them, in its own file: such a machine is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rumplab.errors import RumplabError, UsageError
from rumplab.host.answers import MALFORMED
from rumplab.machine import qmp
from rumplab.machine.registry import SNAPSHOTS, Machine

NODE = "rumplab-snapshots"
FILE_NODE = "rumplab-snapshots-file"
# The smallest disk: what a machine's state takes isn't counted in it.
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
    """`size` is what the machine's state takes, in bytes; `taken` UNIX time, `ran` for how many seconds of its own the
    guest had run."""

    label: str
    size: int
    taken: int
    ran: float


def check_label(label: str) -> str:
    """`label` if a snapshot can be called so; UsageError otherwise."""
    # QEMU takes a number for the number of a snapshot.
    if not LABEL.fullmatch(label) or label.isdecimal():
        raise UsageError(
            f"'{label}' can't name a snapshot: use up to 64 letters, digits, '.', '_' and '-', not digits alone,"
            " beginning with a letter or digit"
        )
    return label


def take(machine: Machine, label: str) -> Snapshot:
    """Keeps `machine` as it is now, as `label`. RumplabError names what can't be kept."""
    check_label(label)
    with connected(machine) as session:
        disks = kept_disks(machine, session)
        provide(machine, session)
        if any(one.label == label for one in found(session)):
            raise RumplabError(
                f"{machine.name} has a snapshot '{label}' already; choose another LABEL, or take it away:"
                f" rumplab snaps {machine.name} --delete {label}"
            )
        job(machine, session, "snapshot-save", tag=label, vmstate=NODE, devices=[NODE, *disks])
        return next(one for one in found(session) if one.label == label)


def back(machine: Machine, label: str) -> Snapshot:
    """Makes `machine` what it was when it was kept as `label`; it runs on if it runs."""
    check_label(label)
    with connected(machine) as session:
        snapshot = known(machine, session, label)
        disks = kept_disks(machine, session)
        job(machine, session, "snapshot-load", tag=label, vmstate=NODE, devices=[NODE, *disks])
        return snapshot


def delete(machine: Machine, label: str) -> None:
    check_label(label)
    with connected(machine) as session:
        known(machine, session, label)
        job(machine, session, "snapshot-delete", tag=label, devices=[NODE, *kept_disks(machine, session)])


def all_of(machine: Machine) -> list[Snapshot]:
    """The snapshots of `machine`, the earliest first."""
    with connected(machine) as session:
        return found(session)


@contextlib.contextmanager
def connected(machine: Machine) -> Iterator[qmp.Session]:
    try:
        with qmp.Session(machine.socket, ANSWER_SECONDS) as session:
            yield session
    except MALFORMED as error:
        raise RumplabError(f"{machine.name} answers in a form that isn't known: {error}") from error
    except qmp.QmpError as error:
        raise RumplabError(f"{machine.name} can't do that: {error}; look at it with: rumplab ps") from error


def known(machine: Machine, session: qmp.Session, label: str) -> Snapshot:
    snapshots = found(session)
    for one in snapshots:
        if one.label == label:
            return one
    labels = ", ".join(one.label for one in snapshots)
    raise RumplabError(
        f"{machine.name} has no snapshot '{label}'; "
        + (f"there are: {labels}" if labels else f"take one with: rumplab snap {machine.name} {label}")
    )


def found(session: qmp.Session) -> list[Snapshot]:
    """The snapshots in the machine's file, where it has been made."""
    for node in session.execute("query-named-block-nodes", {"flat": True}):
        if node.get("node-name") == NODE:
            return sorted(map(read, node["image"].get("snapshots", ())), key=lambda one: one.taken)
    return []


def read(data: dict[str, Any]) -> Snapshot:
    return Snapshot(
        label=str(data["name"]),
        size=int(data["vm-state-size"]),
        taken=int(data["date-sec"]),
        ran=int(data["vm-clock-sec"]) + int(data["vm-clock-nsec"]) / 1e9,
    )


def kept_disks(machine: Machine, session: qmp.Session) -> list[str]:
    """QEMU's names of the disks whose changes are in files of QEMU's own, which are kept with the machine. RumplabError
    names a disk that is written to."""
    unwritten = {file for file, writes in machine.files if not writes}
    nodes = []
    for disk in session.execute("query-block"):
        inserted = disk.get("inserted")
        if not inserted or inserted["ro"]:
            continue
        if not thrown_away(inserted, unwritten):
            raise RumplabError(
                f"{machine.name} writes to {file_of(inserted)}, which a snapshot would have to change; start it with"
                + (" no --persist" if machine.guest else " --snapshot, which throws its writes away")
            )
        nodes.append(str(inserted["node-name"]))
    return nodes


def thrown_away(inserted: dict[str, Any], unwritten: set[str]) -> bool:
    """Whether the changes of a disk are in a file that QEMU has made for them and that ends with it."""
    if inserted["drv"] != QCOW2:
        return False
    return inserted.get("backing_file") in unwritten or not os.path.exists(file_of(inserted))


def file_of(inserted: dict[str, Any]) -> str:
    """The file that has a disk's changes."""
    name = str(inserted["file"])
    if name.startswith(JSON):
        file = json.loads(name[len(JSON) :])["file"]
        return str(file["filename"] if isinstance(file, dict) else file)
    return name


def provide(machine: Machine, session: qmp.Session) -> None:
    """Makes the file that snapshots are kept in, and has QEMU open it, if it hasn't yet."""
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
    """Runs a command of QEMU's that goes on by itself, to its end. RumplabError says why it failed, in QEMU's words."""
    name = f"{JOB}-{os.getpid()}"
    try:
        session.execute(command, {"job-id": name, **arguments}, JOB_SECONDS)
    except qmp.Refused as error:
        raise failed(machine, str(error)) from error
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        # A machine that is being written doesn't answer.
        (state,) = [one for one in session.execute("query-jobs", None, JOB_SECONDS) if one["id"] == name]
        if state["status"] == "concluded":
            session.execute("job-dismiss", {"id": name})
            if state.get("error"):
                raise failed(machine, str(state["error"]))
            return
        time.sleep(POLL_SECONDS)
    raise RumplabError(f"{machine.name} has not finished within {JOB_SECONDS:.0f} s; is the host busy?")


def failed(machine: Machine, why: str) -> RumplabError:
    remedy = ""
    if "No space left" in why:
        remedy = f"; free some space in {machine.path}"
    elif "non-migratable" in why:
        remedy = "; QEMU can't save that device: start the machine without it"
    elif "has not been found" in why:
        remedy = "; this QEMU is older than 6.0"
    return RumplabError(f"{machine.name}: {why}{remedy}")
