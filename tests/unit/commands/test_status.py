"""status, doctor, and the record of the last verification."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.labfixture import STAMP, LabPrefix

from rumplab import output
from rumplab.commands import doctor, status
from rumplab.errors import RumplabError
from rumplab.guest.definition import FILE, open_guests
from rumplab.lab import config, verified
from rumplab.machine import accel


def test_table_is_aligned() -> None:
    text = output.table(["A", "B"], [["long cell", "x"], ["y", ""]])
    assert text == "A          B\nlong cell  x\ny"


def test_status_of_an_empty_lab(empty_lab: LabPrefix) -> None:
    result = empty_lab.tool("status")
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        "COMPONENT  VERSION  SOURCE  STATE  STAMP",
        "verified: no; to verify: rumplab smoke --record",
    ]


def test_status_shows_substitutes_and_deferrals(empty_lab: LabPrefix) -> None:
    empty_lab.component("gdb", {}, version="13.1", wanted="7.11", source="substitute", reason="404 not found")
    empty_lab.component("qemu", {}, state="deferred", version=None, stamp=None, source=None, reason="refused")
    text = empty_lab.tool("status").stdout
    assert f"gdb        13.1 (wanted 7.11)  substitute  installed  {STAMP[:12]}" in text
    assert "qemu       - (wanted 1.0)      -           deferred   -" in text
    assert "gdb: 404 not found; to try for it again: ./provision --tags gdb -e rumplab_retry=true" in text
    assert "qemu: refused; to try again: ./provision --tags qemu" in text


def test_status_says_when_a_deferred_component_was_tried_and_is_tried_again(empty_lab: LabPrefix) -> None:
    deferral = {"request": "r", "tried": "2026-01-01T10:00:00Z", "until": "2026-01-01T11:00:00Z"}
    empty_lab.component("gdb", {}, state="deferred", version=None, reason="404", deferral=deferral)
    text = empty_lab.tool("status").stdout
    assert "gdb: 404; to try again: ./provision --tags gdb (tried at " in text
    (found,) = json.loads(empty_lab.tool("status", "--json").stdout)["components"]
    assert (found["tried"], found["next_try"]) == ("2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z")
    unreadable: list[Any] = [None, [], {"tried": 1}, {"tried": "x"}]
    for broken in unreadable:
        empty_lab.component("gdb", {}, state="deferred", version=None, reason="404", deferral=broken)
        assert "gdb: 404; to try again: ./provision --tags gdb\n" in empty_lab.tool("status").stdout


def test_a_time_is_told_by_the_hosts_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-2")
    time.tzset()
    try:
        assert status.local("2026-01-01T10:00:00Z") == "2026-01-01 12:00"
        assert status.local("soon") == "soon"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_status_as_json(empty_lab: LabPrefix) -> None:
    empty_lab.component("gdb", {"gdb": "/g"})
    data = json.loads(empty_lab.tool("status", "--json").stdout)
    assert data["verified"] is False
    assert data["prefix"] == str(empty_lab.prefix)
    assert [(item["name"], item["paths"]) for item in data["components"]] == [("gdb", {"gdb": "/g"})]


def test_verified_until_something_changes(empty_lab: LabPrefix) -> None:
    empty_lab.component("gdb", {})
    lab = config.load()
    assert not verified.is_verified(lab, lab.components())
    verified.record(lab)
    assert verified.is_verified(lab, lab.components())
    assert "verified: yes" in empty_lab.tool("status").stdout
    empty_lab.component("qemu", {}, state="deferred")
    assert verified.is_verified(lab, lab.components())
    empty_lab.component("gdb", {}, stamp="f" * 64)
    assert not verified.is_verified(lab, lab.components())


def test_verified_where_the_directory_is_missing(empty_lab: LabPrefix) -> None:
    lab = config.load()
    shutil.rmtree(empty_lab.prefix / "var")
    with pytest.raises(RumplabError, match=r"cannot write .*verified\.json: No such file"):
        verified.record(lab)


def checks(lab: LabPrefix) -> dict[str, dict[str, str]]:
    result = lab.tool("doctor", "--json")
    found = {check["subject"]: check for check in json.loads(result.stdout)}
    failed = any(check["level"] == "fail" for check in found.values())
    assert result.returncode == (1 if failed else 0)
    return found


def test_doctor_names_a_guest_without_definition_and_checks_the_sandbox(lab: LabPrefix) -> None:
    path = open_guests(config.load()).directory("hurt") / FILE
    path.parent.mkdir()
    path.write_text("[]", encoding="utf-8")
    checks = {check["subject"]: check for check in json.loads(lab.tool("doctor", "--json").stdout)}
    assert checks["guest"]["level"] == "warn"
    assert "rumplab guest delete hurt" in checks["guest"]["detail"]
    assert checks["sandbox"]["level"] in ("ok", "warn")


def test_doctor_without_qemu_fails_with_the_remedy(empty_lab: LabPrefix) -> None:
    found = checks(empty_lab)
    assert found["python"]["level"] == "ok"
    assert found["disk"]["detail"].endswith(str(empty_lab.prefix))
    assert found["accelerator"]["level"] == "fail"
    assert found["accelerator"]["remedy"] == "./provision --tags qemu"


def test_doctor_finds_tools_that_are_missing_or_broken(empty_lab: LabPrefix, tmp_path: Path) -> None:
    broken = tmp_path / "mke2fs"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    empty_lab.component("rump_stager", {"sfdisk": "/nonexistent", "mke2fs": str(broken), "grub-modules": "/"})
    empty_lab.component("gdb", {}, state="deferred", reason="timed out")
    found = checks(empty_lab)
    assert found["rump_stager/sfdisk"]["detail"] == "/nonexistent is missing"
    assert found["rump_stager/sfdisk"]["level"] == "fail"
    assert "does not run" in found["rump_stager/mke2fs"]["detail"]
    assert found["rump_stager/grub-modules"]["level"] == "ok"
    assert found["gdb"] == {
        "subject": "gdb",
        "level": "warn",
        "detail": "deferred: timed out",
        "remedy": "./provision --tags gdb",
    }


def test_doctor_does_not_wait_for_a_tool_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TOOL_SECONDS", 0.3)
    hung = tmp_path / "gdb"
    hung.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    hung.chmod(0o755)
    began = time.monotonic()
    check = doctor.check_path("gdb/gdb", "gdb", str(hung), "remedy")
    assert time.monotonic() - began < 5
    assert check.level == "fail"
    assert "did not answer" in check.detail


@pytest.mark.parametrize(
    ("result", "chosen", "level"),
    [
        (accel.Result("kvm", True, 0.1), "kvm", "ok"),
        (accel.Result("kvm", True, 4.0), "tcg", "warn"),
        (accel.Result("kvm", False, 5.0, "did not finish"), "tcg", "warn"),
        (accel.Result("tcg", True, 0.3), "kvm", "ok"),
        (accel.Result("tcg", False, 0.3, "broken"), "tcg", "fail"),
    ],
)
def test_doctor_on_accelerators(result: accel.Result, chosen: str, level: str) -> None:
    check = doctor.describe(result, chosen)
    assert check.level == level
    assert (level == "ok") == (not check.remedy)


@pytest.mark.qemu
def test_doctor_of_a_whole_lab(lab_prefix: LabPrefix) -> None:
    found = checks(lab_prefix)
    assert [check for check in found.values() if check["level"] == "fail"] == []
    assert "QEMU emulator version" in found["qemu/qemu-system-x86_64"]["detail"]
    assert "GNU gdb" in found["gdb/gdb"]["detail"]
    assert "--accel auto takes" in found["accelerator"]["detail"]
    if not os.path.exists(accel.KVM):
        return
    assert found["accelerator/tcg"]["level"] == "ok"
    assert "(remembered)" in checks(lab_prefix)["accelerator"]["detail"]


def test_no_damaged_or_lost_record_hides_the_others(empty_lab: LabPrefix) -> None:
    empty_lab.component("gdb", {})
    damaged = {
        "a": "{",
        "b": '{"schema": 1, "name": "gdb", "state": "installed"}',
        "c": '{"schema": 1, "name": "c", "state": "installed", "version": 5}',
        "d": '{"schema": 1, "name": "d", "state": "installed", "fingerprints": [1]}',
    }
    for name, text in damaged.items():
        empty_lab.descriptor(name).write_text(text, encoding="utf-8")
    os.mkfifo(empty_lab.descriptor("pipe"))
    empty_lab.descriptor("directory").mkdir()
    empty_lab.descriptor("deep").write_text("[" * 100_000, encoding="utf-8")
    names = (*damaged, "lost", "pipe", "directory", "deep")
    (empty_lab.prefix / "lost").symlink_to(f"store/lost-1.0-{STAMP[:12]}")
    (empty_lab.prefix / "other").symlink_to("/elsewhere")
    for record in ("var/verified.json", "etc/images.json"):
        (empty_lab.prefix / record).write_text("{", encoding="utf-8")
    said = empty_lab.tool("status")
    assert said.returncode == 1 and said.stderr == ""
    assert f"gdb        1.0      packages  installed  {STAMP[:12]}\n" in said.stdout
    for name in names:
        assert f"{name:9}  -        -         damaged    -\n" in said.stdout
        assert f"; to write it again: ./provision --tags {name}\n" in said.stdout
    assert f"b: {empty_lab.descriptor('b')} describes 'gdb'; to" in said.stdout
    assert f"lost: {empty_lab.descriptor('lost')} is lost; to" in said.stdout
    assert "verified.json is not JSON" in said.stdout and "images.json is not JSON" in said.stdout
    told = empty_lab.tool("status", "--json")
    data = json.loads(told.stdout)
    assert told.returncode == 1 and len(data["damaged"]) == 2
    assert [one["name"] for one in data["components"] if one["state"] != "damaged"] == ["gdb"]
    found = checks(empty_lab)
    for name in names:
        assert found[name]["level"] == "fail" and found[name]["remedy"] == f"./provision --tags {name}"
    assert found["verified"]["remedy"] == "rumplab smoke --record" and "images" in found
    # Verbs that don't need the damaged components work.
    assert config.load().component("gdb").state == "installed"


@pytest.mark.parametrize("elsewhere", ["/opt/rumplab-that-is-not-there", ""])
def test_a_description_of_another_lab_is_refused(empty_lab: LabPrefix, tmp_path: Path, elsewhere: str) -> None:
    other = elsewhere or str(tmp_path / "second")
    (tmp_path / "second/etc").mkdir(parents=True)
    (tmp_path / "second/etc/rumplab.json").write_text("{}", encoding="utf-8")
    empty_lab.write_config(prefix=other)
    said = empty_lab.tool("status")
    empty_lab.write_config()
    assert said.returncode == 1
    assert f"describes the lab at {other}, but is not in that lab; write it again: ./provision" in said.stderr


def test_a_lab_is_the_same_by_another_path(empty_lab: LabPrefix, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(empty_lab.prefix)
    empty_lab.write_config(prefix=str(tmp_path / "link"))
    assert empty_lab.tool("status").returncode == 0


@pytest.mark.parametrize("where", ["var", "etc"])
@pytest.mark.parametrize("text", [None, "", "[]", '{"entries": [1]}'])
def test_doctor_tells_a_lost_or_damaged_manifest(empty_lab: LabPrefix, where: str, text: str | None) -> None:
    path = empty_lab.prefix / where / "manifest.json"
    assert checks(empty_lab)["manifest"]["level"] == "ok"
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="utf-8")
    found = checks(empty_lab)["manifest"]
    assert (found["level"], found["remedy"]) == ("fail", "./provision")


def test_doctor_names_changed_programs_and_trees(empty_lab: LabPrefix, tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("text", encoding="utf-8")
    mark = f"{program.stat().st_size} {program.stat().st_mtime_ns}"
    (tmp_path / ".complete").write_text(STAMP)
    (empty_lab.prefix / "own").symlink_to(tmp_path)
    for name, tree in (("own", str(tmp_path)), ("hosts", None)):
        empty_lab.component(name, {"tool": str(program)}, fingerprints={"tool": mark}, tree=tree)
    assert "own" not in checks(empty_lab)
    (tmp_path / ".complete").write_text("x")
    assert checks(empty_lab)["own"]["detail"].endswith(".complete isn't what the descriptor says")
    (tmp_path / ".complete").unlink()
    assert checks(empty_lab)["own"]["detail"].endswith(".complete: No such file or directory")
    (empty_lab.prefix / "own").unlink()
    assert f"{empty_lab.prefix}/own doesn't lead to {tmp_path}" in checks(empty_lab)["own"]["detail"]
    (empty_lab.prefix / "own").symlink_to(tmp_path)
    (tmp_path / ".complete").write_text(STAMP)
    os.utime(program, ns=(0, 0))
    found = checks(empty_lab)
    assert found["own"]["level"] == "fail" and found["own"]["remedy"] == "./provision --tags own"
    assert found["hosts"]["level"] == "warn" and "has changed since it was described" in found["hosts"]["detail"]
