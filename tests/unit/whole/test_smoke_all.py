"""`rumplab smoke --all`: it boots from every disk controller, and the debugger finds each."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from support.labfixture import LabPrefix
from support.running import until

from rumplab.machine import disk_controllers

pytestmark = pytest.mark.qemu

FOUND = {
    "virtio": ("1af4:1001", "00:02.0"),
    "ide": ("8086:7010", "00:01.1"),
    "lsi": ("1000:0012", "00:02.0"),
    "mpt": ("1000:0054", "00:02.0"),
    "virtio-scsi": ("1af4:1004", "00:02.0"),
    "nvme": ("1b36:0010", "00:02.0"),
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def left_behind(workplace: Path) -> list[Path]:
    return list(workplace.glob("rumplab-*smoke-*"))


def test_every_controller_in_a_table(lab: LabPrefix, workplace: Path) -> None:
    result = lab.tool("smoke", "--all", timeout=300)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"^(\S+) +(\S+:\S+) +(\S+) +[0-9.]+ s$", result.stdout, re.MULTILINE)
    assert {disk: (controller, place) for disk, controller, place in rows} == FOUND
    assert result.stdout.splitlines()[-1].startswith(
        "the lab works: e1000 01:01.0 8086:100e behind the bridge and 6 disk controllers, seen by the debugger ("
    )
    assert lab.machines() == []
    assert left_behind(workplace) == []


def test_a_controller_that_fails_is_named_and_nothing_is_left(lab: LabPrefix, workplace: Path) -> None:
    """QEMU is a stand-in without NVMe."""
    emulator = json.loads(lab.descriptor("qemu").read_text(encoding="utf-8"))["paths"]["qemu-system-x86_64"]
    script = workplace / "qemu"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *nvme*) echo "no such device" >&2; exit 1 ;; esac\nexec {emulator} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    lab.component("qemu", {"qemu-system-x86_64": str(script)})
    result = lab.tool("smoke", "--all", timeout=300)
    assert result.returncode == 1
    assert "--disk nvme: run: 'rumplab run' failed" in result.stderr
    assert "no such device" in result.stderr
    seen = re.findall(r"00:0\d\.\d +[0-9.]+ s$", result.stdout, re.MULTILINE)
    assert len(seen) == len(disk_controllers.CONTROLLERS) - 1
    assert lab.machines() == []
    assert left_behind(workplace) == []


def test_smoke_cleans_up_when_it_is_terminated(lab: LabPrefix, workplace: Path) -> None:
    child = lab.start("smoke", "--all")
    until(lambda: any(machine["name"].endswith("-ide") for machine in lab.machines()), 60)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 128 + signal.SIGTERM
    assert lab.machines() == []
    assert left_behind(workplace) == []


def test_json_output_and_kept_machines(lab: LabPrefix, workplace: Path) -> None:
    result = lab.tool("smoke", "--all", "--json", "--keep", timeout=300)
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["device"] == "01:01.0 8086:100e"
    assert {row["disk"]: (row["controller"], row["place"]) for row in data["disks"]} == FOUND
    kept = [machine["name"] for machine in lab.machines()]
    assert len(kept) == 1 + len(FOUND)
    (directory,) = left_behind(workplace)
    assert result.stderr == f"rumplab smoke: kept {', '.join(kept)} and {directory}\n"
