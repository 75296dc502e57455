"""Records of machines: names and ports claimed once, dead records retired, private places."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from unit.labfixture import SOURCE, LabPrefix

from rumplab import config, machines, ports, process
from rumplab.errors import RumplabError, UsageError
from rumplab.machines import Machine, Machines

CLAIM = """
import sys, time
from pathlib import Path
from rumplab.machines import Machine, Machines
claimed = Machines(Path(sys.argv[1])).claim(Machine(name="same", directory="", gdb_port=0), numbered=True)
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


def die(store: Machines, machine: Machine) -> None:
    """Makes the record that of a process that has ended."""
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


def test_a_port_of_ours_names_the_machine(store: Machines) -> None:
    port = store.claim(wanted("first"), numbered=False).gdb_port
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
    names, taken = zip(*claimed, strict=True)
    assert sorted(names) == ["same", *(f"same-{number}" for number in range(2, 9))]
    assert len(set(taken)) == 8
    assert len(store.all()) == 8
    for child in children:
        child.communicate(timeout=20)
    assert store.all() == []


def test_dead_records_are_retired_and_keep_their_logs(store: Machines) -> None:
    machine = store.claim(wanted(), numbered=False)
    machine.serial_log.write_text("hello\n", encoding="utf-8")
    die(store, machine)
    assert store.all() == []
    ended = store.ended("m")
    assert ended is not None
    assert (ended / "serial.log").read_text(encoding="utf-8") == "hello\n"
    store.forget("m")
    assert store.ended("m") is None


def test_a_later_machine_of_the_name_is_not_retired_for_an_earlier(store: Machines) -> None:
    earlier = store.claim(wanted(), numbered=False)
    die(store, earlier)
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
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), "later": 1}), encoding="utf-8"
    )
    assert store.find("m") == machine


def test_ended_machines_are_not_kept_for_ever(store: Machines) -> None:
    for number in range(machines.ENDED_KEPT + 3):
        die(store, store.claim(wanted(f"m{number}"), numbered=False))
        store.all()
    kept = sorted(path.name for path in (store.root / ".ended").iterdir())
    assert len(kept) == machines.ENDED_KEPT
    assert "m0" not in kept


def test_a_full_disk_names_the_place_and_leaves_nothing(
    store: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(machine: Machine) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(machine.path))

    monkeypatch.setattr(machines, "write_record", full)
    with pytest.raises(RumplabError, match=f"{store.root}/m: No space left on device; free some space"):
        store.claim(wanted(), numbered=False)
    assert not (store.root / "m").exists()


def test_the_lock_is_waited_for_but_not_for_ever(store: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines.locks, "RECORD_SECONDS", 0.2)
    with machines.locks.held(store.root), pytest.raises(RumplabError, match=r"another rumplab has held .*/\.lock"):
        store.all()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "é", "a" * 33, "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="can't name a machine"):
        machines.check_name(name)


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
    assert machines.base_name(path) == name
    machines.check_name(f"{name}-99")


def test_records_lie_in_the_prefix_if_they_fit(tmp_path: Path, empty_lab: LabPrefix) -> None:
    short = empty_lab.runtime / "l"
    (short / "var" / "machines").mkdir(parents=True)
    lab = replace(config.load(), prefix=short)
    assert machines.open_machines(lab).root == short / "var" / "machines" / str(os.getuid())
    long = tmp_path / ("x" * 80)
    (long / "var" / "machines").mkdir(parents=True)
    root = machines.open_machines(replace(lab, prefix=long)).root
    assert root.parent == empty_lab.runtime
    assert root != machines.open_machines(replace(lab, prefix=tmp_path / ("y" * 80))).root


def test_a_prefix_without_machines_directory_is_gone_round(empty_lab: LabPrefix) -> None:
    lab = replace(config.load(), prefix=empty_lab.runtime / "none")
    assert machines.open_machines(lab).root.parent == empty_lab.runtime


def test_a_place_that_others_can_write_to_is_refused(empty_lab: LabPrefix) -> None:
    lab = replace(config.load(), prefix=empty_lab.runtime / "none")
    machines.open_machines(lab).root.chmod(0o777)
    with pytest.raises(RumplabError, match="is not a directory of your own"):
        machines.open_machines(lab)


def test_a_link_in_that_place_is_refused(empty_lab: LabPrefix, tmp_path: Path) -> None:
    lab = replace(config.load(), prefix=empty_lab.runtime / "none")
    root = machines.open_machines(lab).root
    root.rmdir()
    root.symlink_to(tmp_path)
    with pytest.raises(RumplabError, match="is not a directory of your own"):
        machines.open_machines(lab)


def test_the_token_is_this_process(store: Machines) -> None:
    machine = store.claim(wanted(), numbered=False)
    assert (machine.pid, machine.token) == (os.getpid(), process.started(os.getpid()))
