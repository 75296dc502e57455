"""Records of machines: a name or port has one owner, ended machines lose their record, directories are private."""

from __future__ import annotations

import errno
import json
import os
import pwd
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.labfixture import SOURCE, LabPrefix

from rumplab.errors import RumplabError, UsageError
from rumplab.host import ports, process
from rumplab.lab import config, places
from rumplab.machine import registry
from rumplab.machine.registry import Machine, Machines

CLAIM = """
import sys, time
from pathlib import Path
from rumplab.machine.registry import Machine, Machines
claimed = Machines(Path(sys.argv[1])).claim(Machine(name="same", directory=""), numbered=True)
print(claimed.name, claimed.gdb_port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Machines:
    root = tmp_path / "machines"
    root.mkdir()
    return Machines(root)


def wanted(name: str = "m", port: int = 0, image: str | None = None, snapshot: bool = False) -> Machine:
    return Machine(name=name, directory="", gdb_port=port, image=image, snapshot=snapshot)


def mark_ended(store: Machines, machine: Machine) -> None:
    """Change the record to that of a process that has ended."""
    store.update(replace(machine, token="an earlier life"))


def test_claim_find_retire(store: Machines) -> None:
    machine = store.claim(wanted(port=ports.free()), numbered=False)
    assert store.find("m") == machine
    assert machine.alive()
    assert machine.path.stat().st_mode & 0o077 == 0
    store.retire(machine)
    with pytest.raises(RumplabError, match="no machine called 'm' is running; none is running"):
        store.find("m")


def test_a_name_is_taken_once(store: Machines) -> None:
    store.claim(wanted(), numbered=False)
    with pytest.raises(RumplabError, match=r"a machine called 'm' is running; 'rumplab stop m' ends it"):
        store.claim(wanted(), numbered=False)
    assert store.claim(wanted(), numbered=True).name == "m-2"
    assert store.claim(wanted(), numbered=True).name == "m-3"


def test_the_error_for_a_taken_port_names_the_machine(store: Machines) -> None:
    port = registry.ports.free()
    store.claim(wanted("first", port), numbered=False)
    with pytest.raises(RumplabError, match=f"port {port} is taken by machine 'first'"):
        store.claim(wanted("second", port), numbered=False)
    assert [machine.name for machine in store.all()] == ["first"]


def test_an_image_is_used_once_unless_both_are_snapshots(store: Machines) -> None:
    store.claim(wanted("first", image="/x.img", snapshot=True), numbered=False)
    with pytest.raises(RumplabError, match=r"/x\.img is in use by machine 'first'"):
        store.claim(wanted("second", image="/x.img"), numbered=False)
    store.claim(wanted("third", image="/x.img", snapshot=True), numbered=False)


def test_claims_at_once_never_clash(store: Machines) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(store.root)],
            env={"PYTHONPATH": str(SOURCE)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    claimed = []
    for child in children:
        assert child.stdout is not None
        claimed.append(child.stdout.readline().split())
    names = [name for name, _ in claimed]
    assert sorted(names) == ["same", *(f"same-{number}" for number in range(2, 9))]
    assert len(store.all()) == 8
    for child in children:
        child.communicate(timeout=20)
    assert store.all() == []


def test_dead_records_are_retired_and_keep_their_logs(store: Machines) -> None:
    machine = store.claim(wanted(), numbered=False)
    machine.serial_log.write_text("hello\n", encoding="utf-8")
    mark_ended(store, machine)
    assert store.all() == []
    ended = store.ended("m")
    assert ended is not None
    assert (ended / "serial.log").read_text(encoding="utf-8") == "hello\n"
    store.forget("m")
    assert store.ended("m") is None


def test_a_later_machine_of_the_name_is_not_retired_for_an_earlier(store: Machines) -> None:
    earlier = store.claim(wanted(), numbered=False)
    mark_ended(store, earlier)
    later = store.claim(wanted(), numbered=False)
    store.retire(replace(earlier, token="an earlier life"))
    assert store.find("m") == later


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 1}', '"x"', '{"schema": 1}'])
def test_records_that_make_no_sense_are_retired(store: Machines, content: str) -> None:
    (store.root / "odd").mkdir()
    (store.root / "odd" / "machine.json").write_text(content, encoding="utf-8")
    assert store.all() == []
    assert not (store.root / "odd").exists()


def test_keys_of_a_newer_tool_are_ignored(store: Machines) -> None:
    machine = store.claim(wanted(), numbered=False)
    path = machine.path / "machine.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "later": 1}), encoding="utf-8")
    assert store.find("m") == machine


def test_ended_machines_are_not_kept_for_ever(store: Machines) -> None:
    for number in range(registry.ENDED_KEPT + 3):
        mark_ended(store, store.claim(wanted(f"m{number}"), numbered=False))
        store.all()
    kept = sorted(path.name for path in (store.root / ".ended").iterdir())
    assert len(kept) == registry.ENDED_KEPT
    assert "m0" not in kept


def test_a_full_disk_names_the_place_and_leaves_nothing(store: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(machine: Machine) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(machine.path))

    monkeypatch.setattr(registry, "write_record", full)
    with pytest.raises(RumplabError, match=f"{store.root}/m: No space left on device; free some space"):
        store.claim(wanted(), numbered=False)
    assert not (store.root / "m").exists()


def test_the_lock_is_waited_for_but_not_for_ever(store: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.locks, "RECORD_SECONDS", 0.2)
    held = rf"another rumplab \(pid {os.getpid()}\) has held .*/\.lock"
    with registry.locks.held(store.root), pytest.raises(RumplabError, match=held):
        store.all()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "é", "a" * 33, "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="can't name a machine"):
        registry.check_name(name)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/hello.img", "hello"),
        ("hello world, ü.img", "hello-world"),
        ("ü.img", "machine"),
        (".img", "img"),
        ("x" * 99, "x" * 28),
        ("net-9.3.x86.img", "net-9.3.x86"),
    ],
)
def test_names_made_from_files(path: str, name: str) -> None:
    assert registry.base_name(path) == name
    registry.check_name(f"{name}-99")


def test_records_are_in_the_users_state_directory_one_directory_per_lab(empty_lab: LabPrefix) -> None:
    lab = config.load()
    root = registry.open_machines(lab).root
    assert root.parent.parent == empty_lab.runtime
    assert (root.stat().st_mode & 0o777, root.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert root != registry.open_machines(replace(lab, prefix=Path("/other"))).root


def test_a_machine_with_a_record_in_the_former_directory_is_named(
    empty_lab: LabPrefix, capsys: pytest.CaptureFixture[str]
) -> None:
    old = empty_lab.prefix / "var" / "machines" / str(os.getuid())
    for name in ("runs", "ended"):
        (old / name).mkdir(parents=True)
        token = process.started(os.getpid()) if name == "runs" else "an earlier life"
        registry.write_record(Machine(name, str(old / name), pid=os.getpid(), token=token or ""))
    assert registry.open_machines(config.load()).all() == []
    said = capsys.readouterr().err
    assert f"an earlier rumplab started machine 'runs' and recorded it in {old}" in said
    assert f"end it with: kill {os.getpid()}\n" in said
    assert "ended" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a directory to another user")
def test_a_home_that_is_another_users_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.home() == tmp_path
    os.chown(tmp_path, 65534, -1)
    assert places.home() == Path(pwd.getpwuid(0).pw_dir)


def test_a_user_without_an_account_has_a_directory(empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(os, "getuid", lambda: 4294967)
    assert places.home() is None
    with pytest.raises(RumplabError, match="no place for your guests"):
        places.directory(config.load(), "guests", lasting=True)


def test_a_directory_too_long_for_a_sockets_path_is_not_used(
    empty_lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("x" * 80)))
    assert registry.open_machines(config.load()).root.parent.parent == empty_lab.runtime
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["others", "link", "file"])
def test_a_squatted_place_is_passed_over_and_named(
    empty_lab: LabPrefix,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    lab = config.load()
    own = empty_lab.runtime / "s"
    own.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(own))
    squatted = own / f"rumplab-{places.lab_id(lab)}"
    if how == "link":
        squatted.symlink_to(tmp_path)
    elif how == "file":
        squatted.touch()
    else:
        squatted.mkdir()
        squatted.chmod(0o777)
    root = registry.open_machines(lab).root
    assert root.parent.parent == empty_lab.runtime
    assert f"{squatted} is not a directory of your own" in capsys.readouterr().err
    with pytest.raises(RumplabError, match=r"no place for your guests: .* of your own.*XDG_STATE_HOME"):
        places.directory(lab, "guests", lasting=True)


def test_a_lock_is_its_owners_alone_and_names_who_holds_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        (tmp_path / ".lock").touch(mode=0o666)
        with registry.locks.held(tmp_path):
            assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600
            assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    finally:
        os.umask(before)


def test_a_damaged_record_of_a_process_that_runs_is_made_again(
    store: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    store.claim(wanted("good"), numbered=False)
    bad = store.claim(wanted("bad"), numbered=False)
    for content in (None, b"", b"{", b"[]", b'{"pid": "x"}', b"\xff", b"[" * 100000):
        with socket.socket(socket.AF_UNIX) as listener:
            bad.socket.unlink(missing_ok=True)
            listener.bind(str(bad.socket))
            listener.listen()
            record = bad.path / registry.RECORD
            record.unlink() if content is None else record.write_bytes(content)
            assert [(one.name, one.pid) for one in store.all()] == [("bad", os.getpid()), ("good", os.getpid())]
            assert "machine.json, a machine's record, is" in capsys.readouterr().err
            assert store.find("bad").argv
            assert capsys.readouterr().err == ""


def test_a_damaged_record_of_no_process_hides_no_other(store: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    store.claim(wanted("good"), numbered=False)
    bad = store.claim(wanted("bad"), numbered=False)
    (bad.path / registry.RECORD).write_bytes(b"{")
    assert [one.name for one in store.all()] == ["good"]
    assert "no process listens on its socket, so the machine has ended" in capsys.readouterr().err
    assert (store.root / ".ended" / "bad").is_dir()


def test_the_token_is_this_process(store: Machines) -> None:
    machine = store.claim(wanted(), numbered=False)
    assert (machine.pid, machine.token) == (os.getpid(), process.started(os.getpid()))
