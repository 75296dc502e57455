"""Snapshots of real machines, while GDB is attached and while they run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.demos import ROOT
from support.labfixture import SOURCE, LabPrefix, host_tool
from support.running import DONE, image, started, until
from support.staging import needs_root

from rumplab.errors import UsageError
from rumplab.machine import qmp, snapshots

pytestmark = pytest.mark.qemu


def snap(lab: LabPrefix, *words: str) -> str:
    result = lab.tool(*words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(lab: LabPrefix, *words: str) -> str:
    result = lab.tool(*words)
    assert result.returncode == 1 and result.stdout == "", result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def within_gdb(lab: LabPrefix, *words: str) -> str:
    """Returns the GDB command that runs the tool."""
    return f"shell PYTHONPATH={SOURCE} {shlex.join(lab.argv(*words))}"


def settings(tmp_path: Path) -> Path:
    """Writes the lab's settings for GDB, which the host's GDB lacks."""
    (own,) = yaml.safe_load((ROOT / "roles/gdb/vars/main.yml").read_text())["__gdb_files"]
    path = tmp_path / "gdbinit"
    path.write_text(own["content"])
    return path


def test_gdb_stays_attached_when_the_machine_goes_back(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    started(lab, pcihello, "--name", "demo", "--wait")
    again = [
        within_gdb(lab, "back", "demo", "first"),
        "refresh",
        'printf "back at %x, %x\\n", device, id',
        "info breakpoints",
        "continue",
        'printf "then %x, %x\\n", device, id',
    ]
    commands = [
        f"source {settings(tmp_path)}",
        within_gdb(lab, "snap", "demo", "first"),
        'printf "kept at %x, %x\\n", device, id',
        "continue",
        'printf "next %x, %x\\n", device, id',
        "continue",
        'printf "third %x, %x\\n", device, id',
        *again,
        *again,
    ]
    words = [word for command in commands for word in ("--ex", command)]
    result = lab.tool("debug", "demo", "pci_device_found", "--batch", *words, timeout=90)
    assert result.returncode == 0, result.stderr
    said = dict(re.findall(r"^(kept at|next|third|back at|then) (.*)", result.stdout, re.MULTILINE))
    assert said["back at"] == said["kept at"]
    assert said["then"] == said["next"]
    assert len(set(said.values())) == 3
    assert result.stdout.count("demo is back at first\n") == 2
    assert len(re.findall(r"hw breakpoint +keep +y", result.stdout)) == 2
    assert "Cannot" not in result.stderr and "deprecated" not in result.stdout + result.stderr


def test_a_running_machine_continues_from_the_snapshot(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello, "--name", "demo", "--wait")
    log, control = Path(machine["directory"], "serial.log"), Path(machine["directory"], "qmp.sock")
    said = snap(lab, "snap", "demo", "start")
    assert re.fullmatch(
        r"demo: saved snapshot start \([0-9.]+ MB\); go back to it with: rumplab back demo start\n", said
    )
    qmp.execute(control, "cont")
    until(lambda: log.read_text().count(DONE) == 1)
    assert snap(lab, "back", "demo", "start") == "demo is back at start\n"
    until(lambda: log.read_text().count(DONE) == 2)
    qmp.execute(control, "stop")
    snap(lab, "back", "demo", "start")
    assert qmp.status(control) == "paused"


def test_snapshots_are_listed_and_deleted(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello, "--name", "demo", "--wait")
    assert snap(lab, "snaps", "demo") == "demo has no snapshots; take one with: rumplab snap demo LABEL\n"
    assert "take one with: rumplab snap demo x" in refused(lab, "back", "demo", "x")
    for label in ("one", "two"):
        snap(lab, "snap", "demo", label)
    shown = snap(lab, "snaps", "demo").splitlines()
    assert shown[0].split() == ["LABEL", "MB", "TAKEN", "RAN"]
    assert [line.split()[0] for line in shown[1:]] == ["one", "two"]
    listed = json.loads(snap(lab, "snaps", "demo", "--json"))
    assert [set(one) for one in listed] == [{"label", "size", "taken", "ran"}] * 2
    assert "has a snapshot 'one' already" in refused(lab, "snap", "demo", "one")
    assert "its snapshots are: one, two" in refused(lab, "back", "demo", "three")
    assert snap(lab, "snaps", "demo", "--delete", "one") == "demo: deleted snapshot one\n"
    assert "no snapshot 'one'" in refused(lab, "snaps", "demo", "--delete", "one")
    # The file of a deleted snapshot is removed at once, that of the other one when the machine ends.
    (kept,) = Path(machine["directory"], "snapshots").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    snap(lab, "stop", "demo")
    assert not kept.exists()
    assert list(lab.runtime.rglob("*.qcow2")) == []


@pytest.fixture
def small_disk(lab: LabPrefix) -> Iterator[Path]:
    """A file system of 8 MiB where the machines' directories are."""
    place = lab.runtime
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", place], check=True, timeout=30)
    try:
        yield place
    finally:
        lab.tool("stop", "--all")
        subprocess.run(["umount", place], check=True, timeout=30)


def free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


@needs_root
@pytest.mark.parametrize("megabytes", [0.06, 0.3, 1])
def test_a_snapshot_without_space_leaves_nothing_and_the_machine_goes_on(
    lab: LabPrefix, pcihello: Path, small_disk: Path, tmp_path: Path, megabytes: float
) -> None:
    disk = image(lab, pcihello, tmp_path / "demo.img")
    machine = started(lab, disk, "--name", "demo", "--snapshot")
    log, control = Path(machine["directory"], "serial.log"), Path(machine["directory"], "qmp.sock")
    until(lambda: DONE in log.read_text())
    fill(machine, 0x11)
    snap(lab, "snap", "demo", "first")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (free(small_disk) - int(megabytes * (1 << 20))))
    before = free(small_disk)
    for _ in range(2):
        said = refused(lab, "snap", "demo", "second")
        assert said == (
            f"rumplab snap: no space left for a snapshot of demo; free some space in {machine['directory']}, for"
            " example delete a snapshot: rumplab snaps demo --delete LABEL\n"
        )
        assert free(small_disk) >= before - 4096
    assert [one["label"] for one in json.loads(snap(lab, "snaps", "demo", "--json"))] == ["first"]
    assert qmp.status(control) == "running"
    with qmp.Session(control) as session:
        names = {one.get("node-name") for one in session.execute("query-named-block-nodes", {"flat": True})}
        (disk_state,) = [one for one in session.execute("query-block") if one.get("inserted")]
    # The node of the first snapshot, and that of its file.
    assert len([name for name in names if str(name).startswith(snapshots.NODE)]) == 2
    # The disk has no part of the failed snapshot either.
    assert [one["name"] for one in disk_state["inserted"]["image"]["snapshots"]] == ["first"]
    # The earlier snapshot is usable, and so is the label when there is space again.
    fill(machine, 0x22)
    snap(lab, "back", "demo", "first")
    assert content(machine, tmp_path / "copy") == b"\x11" * 4096
    ballast.unlink()
    snap(lab, "snap", "demo", "second")
    snap(lab, "back", "demo", "second")
    # A deleted snapshot gives its space back.
    before = free(small_disk)
    snap(lab, "snaps", "demo", "--delete", "second")
    assert free(small_disk) > before + (1 << 20)


def test_what_a_killed_snap_has_left_is_removed_by_the_next(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello, "--name", "demo", "--wait")
    control = Path(machine["directory"], "qmp.sock")
    for number, half in ((1, False), (2, True)):
        path = Path(machine["directory"], "snapshots", f"{number}.qcow2")
        path.parent.mkdir(exist_ok=True)
        subprocess.run([host_tool("qemu-img"), "create", "-q", "-f", "qcow2", path, "64K"], check=True, timeout=30)
        file, node = f"{snapshots.NODE}{number}{snapshots.FILE}", f"{snapshots.NODE}{number}"
        qmp.execute(control, "blockdev-add", 5, {"driver": "file", "node-name": file, "filename": str(path)})
        if not half:
            qmp.execute(control, "blockdev-add", 5, {"driver": "qcow2", "node-name": node, "file": file})
    assert json.loads(snap(lab, "snaps", "demo", "--json")) == []
    snap(lab, "snap", "demo", "x")
    assert len(list(Path(machine["directory"], "snapshots").iterdir())) == 1
    snap(lab, "back", "demo", "x")


@pytest.mark.parametrize("label", ["", "-x", "a b", "12", "x" * 65, "a/b"])
def test_a_label_that_qemu_could_misread_is_refused(label: str) -> None:
    with pytest.raises(UsageError, match="is not a label for a snapshot"):
        snapshots.check_label(label)


OFFSET = 2 << 20


def first_disk(session: qmp.Session) -> tuple[str, int]:
    """Returns QEMU's name of the only disk, and its size."""
    (disk,) = [one for one in session.execute("query-block") if one.get("inserted")]
    return str(disk["device"]), int(disk["inserted"]["image"]["virtual-size"])


def fill(machine: dict[str, Any], value: int) -> None:
    """Writes to the disk as its guest would."""
    with qmp.Session(Path(machine["directory"], "qmp.sock")) as session:
        session.monitor(f'qemu-io {first_disk(session)[0]} "write -P {value} {OFFSET} 4k"')


def content(machine: dict[str, Any], path: Path) -> bytes:
    """Returns the bytes of the disk at an offset; `path` is a file for a copy."""
    with qmp.Session(Path(machine["directory"], "qmp.sock")) as session:
        device, size = first_disk(session)
        with path.open("wb") as target:
            target.truncate(size)
        node = {"driver": "raw", "node-name": "copy", "file": {"driver": "file", "filename": str(path)}}
        session.execute("blockdev-add", node)
        session.execute("blockdev-backup", {"device": device, "job-id": "job", "sync": "full", "target": "copy"})
        until(lambda: session.execute("query-block-jobs") == [])
        session.execute("blockdev-del", {"node-name": "copy"})
    with path.open("rb") as copy:
        copy.seek(OFFSET)
        return copy.read(4096)


def test_discarded_writes_to_a_disk_are_part_of_a_snapshot(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    disk = image(lab, pcihello, tmp_path / "demo.img")
    before = hashlib.sha256(disk.read_bytes()).digest()
    machine = started(lab, disk, "--name", "demo", "--snapshot")
    fill(machine, 0x11)
    snap(lab, "snap", "demo", "one")
    fill(machine, 0x22)
    assert content(machine, tmp_path / "copy") == b"\x22" * 4096
    snap(lab, "back", "demo", "one")
    assert content(machine, tmp_path / "copy") == b"\x11" * 4096
    snap(lab, "stop", "demo")
    # The image is unchanged.
    assert hashlib.sha256(disk.read_bytes()).digest() == before


def test_a_disk_with_lasting_writes_is_named(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    disk = image(lab, pcihello, tmp_path / "demo.img")
    started(lab, disk, "--name", "demo")
    assert f"demo writes to {disk}, and a snapshot would change that file" in refused(lab, "snap", "demo", "x")
    snap(lab, "stop", "demo")
    own = tmp_path / "own.qcow2"
    subprocess.run([host_tool("qemu-img"), "create", "-q", "-f", "qcow2", own, "8M"], check=True, timeout=30)
    content = own.read_bytes()
    started(lab, pcihello, "--name", "demo", "--drive", own)
    assert f"writes to {own}" in refused(lab, "snap", "demo", "x")
    snap(lab, "stop", "demo")
    started(lab, pcihello, "--name", "demo", "--drive", f"{own},snapshot")
    snap(lab, "snap", "demo", "x")
    snap(lab, "back", "demo", "x")
    snap(lab, "stop", "demo")
    assert own.read_bytes() == content


def test_a_device_that_cannot_be_saved_is_named(lab: LabPrefix, pcihello: Path) -> None:
    started(lab, pcihello, "--name", "demo", "--wait", "--", "-device", "nvme,serial=1,id=slow")
    said = refused(lab, "snap", "demo", "x")
    assert "non-migratable device" in said and "nvme" in said
    assert "start the machine without it" in said
    assert json.loads(snap(lab, "snaps", "demo", "--json")) == []


def test_a_machine_that_has_ended_has_no_snapshots(lab: LabPrefix) -> None:
    for words in (("snap", "demo", "x"), ("back", "demo", "x"), ("snaps", "demo")):
        assert "no machine called 'demo' is running" in refused(lab, *words)
