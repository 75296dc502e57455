"""Snapshots along a recording, with QEMU."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.demos import ROOT, build
from support.labfixture import LabPrefix, host_tool
from support.recordings import recorded
from support.relayclient import RelayClient
from support.running import image, until
from support.staging import command, in_user_name_space, needs_compiler, needs_qemu
from unit.replay.conftest import Truth

from rumplab.errors import RumplabError
from rumplab.recording import record, snapshots
from rumplab.recording.record import Recording
from rumplab.replay import laying, relay
from rumplab.replay.laying import Layer
from rumplab.replay.player import Player
from rumplab.replay.state import DISK, Start

pytestmark = [needs_qemu, needs_compiler]
DISTANCE = 1_000_000
BACK_STEP, BACK = b"bs", b"bc"


@pytest.fixture
def own(recording: Recording, tmp_path: Path) -> Recording:
    """A copy of the recording, without snapshots."""
    shutil.copytree(recording.directory, tmp_path / "own")
    return replace(record.read(tmp_path / "own"), key=recording.key)


@pytest.fixture
def copied(indexed: Recording, tmp_path: Path) -> Recording:
    """A copy of the recording with snapshots, which the test may damage."""
    shutil.copytree(indexed.directory, tmp_path / "copied")
    return replace(record.read(tmp_path / "copied"), key=indexed.key)


@pytest.fixture
def quick(indexed: Recording, short: Path) -> Iterator[RelayClient]:
    with RelayClient(relay.argv(indexed), short) as one:
        one.ask(b"qSupported:swbreak+;hwbreak+")
        yield one


@pytest.fixture
def lab_with_images(lab: LabPrefix) -> LabPrefix:
    """A lab whose QEMU has qemu-img."""
    lab.component("qemu", {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")})
    return lab


@pytest.fixture(scope="module")
def long_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that executes 20 million instructions after the firmware."""
    return build(ROOT / "tests/fixtures/long", tmp_path_factory.mktemp("long") / "long.bin", "CC=gcc -DMILLIONS=20")


def commands_of(client: RelayClient) -> list[str]:
    """Returns the command lines of the QEMUs that the relay has started."""
    pid = client.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8") for child in children]


def test_a_session_starts_at_the_snapshot_before_its_target(truth: Truth, quick: RelayClient) -> None:
    for place in (truth.first, truth.first + 100, truth.last):
        quick.goto(place)
        assert quick.registers() == truth.registers[place - truth.first]
        (argv,) = commands_of(quick)
        assert "rrsnapshot=" in argv
    quick.goto(DISTANCE - 1)
    (argv,) = commands_of(quick)
    assert "rrsnapshot=" not in argv


def test_each_snapshot_continues_as_a_replay_from_the_beginning(
    recording: Recording, quick: RelayClient, short: Path
) -> None:
    """At the snapshot itself, one instruction after it, and one before it."""
    (short / "players").mkdir()
    with Player(recording, short / "players" / "0") as player:
        for number in range(1, 7):
            for place in (number * DISTANCE - 1, number * DISTANCE, number * DISTANCE + 1):
                player.go(place)
                quick.goto(place)
                assert (quick.position, digest(quick)) == (place, player.registers)


def digest(client: RelayClient) -> str:
    return hashlib.sha256(client.ask(b"g")).hexdigest()


def test_a_search_across_snapshots_finds_the_same_stops(client: RelayClient, quick: RelayClient, truth: Truth) -> None:
    """A breakpoint in the firmware, and in the program."""
    for place in (DISTANCE * 3 // 2, truth.first + 10):
        client.goto(place)
        pc = client.registers()[-1]
        ends = []
        for one in (client, quick):
            one.goto("end")
            one.ask(b"Z1,%x,1" % pc)
            found = []
            for _ in range(3):
                report = one.ask(BACK)
                found.append((one.position, report, one.registers()))
            one.ask(b"z1,%x,1" % pc)
            ends.append(found)
        assert ends[0] == ends[1]
        assert ends[0][-1][0] <= truth.last


@pytest.mark.parametrize("damaged", [(5, 6), (1, 2, 3, 4, 5, 6)])
def test_a_changed_snapshot_is_not_used(truth: Truth, copied: Recording, damaged: tuple[int, ...]) -> None:
    for number in damaged:
        path = copied.directory / "snapshots" / str(number * DISTANCE) / "state"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with RelayClient(relay.argv(copied)) as client:
        client.goto(truth.first + 5)
        assert client.registers() == truth.registers[5]
        (argv,) = commands_of(client)
        assert ("rrsnapshot=" in argv) == (len(damaged) < 6)
    assert len(snapshots.changes(copied)) == len(damaged)


def test_missing_snapshots_are_not_used(truth: Truth, copied: Recording) -> None:
    for path in (copied.directory / "snapshots").glob("*000000"):
        shutil.rmtree(path)
    with RelayClient(relay.argv(copied)) as client:
        client.goto(truth.first + 5)
        assert client.registers() == truth.registers[5]


def test_snapshots_of_another_recording_do_not_count(copied: Recording) -> None:
    assert len(snapshots.read(copied).snapshots) == 6
    for other in (replace(copied, version="QEMU 6.0"), replace(copied, firmware="0"), replace(copied, parts=())):
        assert not snapshots.read(other).snapshots
    index = copied.directory / "snapshots" / "index.json"
    text = index.read_text()
    for content in (text.replace("1000000", "1000001", 1), text[:100], "[]", "{}", ""):
        index.write_text(content)
        assert not snapshots.read(copied).snapshots
        assert not snapshots.read(copied).complete


def test_a_snapshot_that_leads_elsewhere_is_dropped(own: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second snapshot is replaced by the first one, as if QEMU had saved a wrong state."""
    save = Layer._save

    def wrong(layer: Layer, scout: Player) -> str:
        said = save(layer, scout)
        if layer._candidate is not None and layer._candidate.position == 2 * DISTANCE:
            place = own.directory / "snapshots" / str(DISTANCE) / "state"
            shutil.copy(place, layer._candidate.directory / "state")
        return said

    monkeypatch.setattr(Layer, "_save", wrong)
    index = laying.lay(own, command("qemu-img"))
    assert [one.position for one in index.snapshots] == [number * DISTANCE for number in (1, 3, 4, 5, 6)]
    assert index.complete
    assert not list((own.directory / "snapshots").glob(".candidate*"))


def test_after_three_wrong_states_there_are_no_more_snapshots(own: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the registers are right, and one byte of the memory is wrong."""
    digest_of = Layer._digest

    def wrong(layer: Layer, player: Player) -> tuple[str, str]:
        registers, memory = digest_of(layer, player)
        return registers, memory + ("x" if layer._running[player].loads and player.position > DISTANCE else "")

    monkeypatch.setattr(Layer, "_digest", wrong)
    index = laying.lay(own, command("qemu-img"))
    assert (index.snapshots, index.complete) == ((), True)
    assert "led to another state" in index.reason


def test_snapshots_that_take_too_much_space_become_fewer(own: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laying, "MOST_BYTES", 1 << 20)
    index = laying.lay(own, command("qemu-img"))
    assert index.complete
    assert index.every > DISTANCE
    assert 0 < len(index.snapshots) < 4
    assert snapshots.changes(own) == []
    kept = {path.name for path in (own.directory / "snapshots").iterdir() if path.is_dir()}
    assert kept == {str(one.position) for one in index.snapshots}


def test_the_process_can_be_killed_and_another_one_continues(own: Recording) -> None:
    argv = laying.argv(own, command("qemu-img"))
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        until(lambda: len(snapshots.read(own).snapshots) >= 2)
        with pytest.raises(RumplabError, match="another process takes the snapshots"):
            laying.lay(own, command("qemu-img"))
        process.send_signal(signal.SIGKILL)
    before = snapshots.read(own)
    assert not before.complete
    index = laying.lay(own, command("qemu-img"))
    assert index.complete
    assert len(index.snapshots) == 6
    assert index.snapshots[: len(before.snapshots)] == before.snapshots
    assert [leg.begin for leg in index.legs] == [0, *(one.position for one in index.snapshots)]
    assert snapshots.changes(own) == []


def test_the_guest_s_disks_have_snapshots_too(lab_with_images: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    lab = lab_with_images
    made = recorded(lab, image(lab, pcihello, tmp_path / "hello.img"))
    before = made.hashes
    done = lab.tool("recording", "index", made.name)
    assert done.returncode == 0, done.stderr
    index = snapshots.read(made)
    assert index.snapshots
    assert index.reason == ""
    assert {"state", "disk0"} <= set(index.snapshots[0].files)
    assert lab.tool("recording", "verify", made.name).returncode == 0
    assert record.read(made.directory).hashes == before
    commands = ("rr-goto end", "break main", "reverse-continue", "rr-where")
    words = [word for one in commands for word in ("--ex", one)]
    quick = lab.tool("debug", made.name, "--replay", "--batch", *words)
    assert lab.tool("recording", "index", made.name, "--remove").returncode == 0
    assert not snapshots.read(made).snapshots
    slow = lab.tool("debug", made.name, "--replay", "--batch", *words)
    assert "Breakpoint 1, main (" in quick.stdout
    assert quick.stdout == slow.stdout


def test_only_snapshots_of_this_user_are_loaded(copied: Recording, short: Path, tmp_path: Path) -> None:
    index = snapshots.root(copied) / snapshots.INDEX
    assert len(snapshots.read(copied).snapshots) == 6
    with RelayClient(relay.argv(replace(copied, key=tmp_path / "other")), short) as client:
        client.ask(b"qSupported:swbreak+;hwbreak+")
        client.goto("end")
        client.ask(BACK_STEP)
        assert not any("rrsnapshot=" in one for one in commands_of(client))
    content = json.loads(index.read_text())
    for code in ("", "0" * 64, 1, None, content[snapshots.CODE][:-1]):
        index.write_text(json.dumps({**content, snapshots.CODE: code}))
        assert not snapshots.read(copied).snapshots
    content["every"] += 1
    index.write_text(json.dumps(content))
    assert not snapshots.read(copied).snapshots


def test_the_secret_of_the_snapshots_is_made_once_and_is_the_users(own: Recording, tmp_path: Path) -> None:
    mine = replace(own, key=tmp_path / "secret")
    snapshots.root(mine).mkdir()
    assert snapshots.own_secret(mine) is None
    snapshots.write(mine, snapshots.Index(every=1))
    first = snapshots.own_secret(mine)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    snapshots.write(mine, snapshots.Index(every=2))
    assert snapshots.own_secret(mine) == first
    assert snapshots.read(mine).every == 2
    # A damaged secret is replaced, and the snapshots are made again.
    (tmp_path / "secret").write_bytes(b"short")
    assert snapshots.read(mine).every == 0
    snapshots.write(mine, snapshots.Index(every=3))
    assert snapshots.read(mine).every == 3


def test_recording_commands_know_of_snapshots(lab_with_images: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    lab = lab_with_images
    made = recorded(lab, pcihello)
    assert "snapshots     none" in lab.tool("recording", "show", made.name).stdout
    done = lab.tool("recording", "index", made.name)
    assert done.stdout.startswith(f"{made.name} has 6 snapshots ("), done.stderr
    assert "snapshots     6, 1000000 instructions apart (" in lab.tool("recording", "show", made.name).stdout
    assert '"snapshots": [' in lab.tool("recording", "ls", "--json").stdout
    packed = tmp_path / "demo.tar.zst"
    assert lab.tool("recording", "pack", made.name, "-o", packed).returncode == 0
    assert lab.tool("recording", "unpack", packed, "--name", "theirs").returncode == 0
    assert "snapshots     none" in lab.tool("recording", "show", "theirs").stdout
    state = made.directory / "snapshots" / "3000000" / "state"
    state.write_bytes(b"x")
    said = lab.tool("recording", "verify", made.name)
    assert said.returncode == 1
    assert f"{state} is missing or has changed; a replay doesn't need the snapshots" in said.stderr
    assert lab.tool("recording", "rm", made.name).returncode == 0
    assert not made.directory.exists()


def test_an_e1000_has_no_snapshots_and_the_reason_is_said(lab_with_images: LabPrefix, pcihello: Path) -> None:
    lab = lab_with_images
    made = recorded(lab, pcihello, "--nic", "e1000")
    done = lab.tool("recording", "index", made.name)
    assert done.returncode == 0
    assert "can't restore the state of an e1000" in done.stderr
    assert f"{made.name} has 0 snapshots" in done.stdout


def test_a_long_recording_gets_its_snapshots_during_the_session(
    lab_with_images: LabPrefix, long_program: Path, short: Path
) -> None:
    made = recorded(lab_with_images, long_program, code=1)
    argv = relay.argv(made, host_tool("qemu-img"))
    with RelayClient(argv, short) as client:
        client.ask(b"qSupported:swbreak+;hwbreak+")
        until(lambda: len(snapshots.read(made).snapshots) >= 2)
        client.goto("end")
        client.ask(BACK_STEP)
        assert any("rrsnapshot=" in one for one in commands_of(client))
        client.socket.close()
        client.process.wait(20)
    # The session's end is the end of the other process too.
    with snapshots.writing(made):
        assert len(snapshots.read(made).snapshots) >= 2
    assert not list(short.iterdir())


def test_gdb_prints_why_there_are_no_snapshots_and_the_session_works(
    lab_with_images: LabPrefix, long_program: Path, short: Path
) -> None:
    made = recorded(lab_with_images, long_program, code=1)
    with RelayClient(relay.argv(made, command("false")), short) as client:
        client.ask(b"qSupported:swbreak+;hwbreak+")

        def told() -> bool:
            client.goto(1000)
            return "there are no more snapshots of this recording: " in client.said

        until(told)
        client.goto(2000)
        assert client.said.count("no more snapshots") == 1
        assert client.position == 2000


NO_SPACE = """
mount -t tmpfs -o size=$SIZE,mode=700 tmpfs "$PLACE"
cp -r "$FROM" "$PLACE/full"
"$@"
echo "status $?"
$TOOL debug "$PLACE/full" --replay --batch --ex 'rr-goto end' --ex rr-where
"""


def test_no_space_for_snapshots_is_said_and_the_debugger_works(
    lab_with_images: LabPrefix, own: Recording, tmp_path: Path
) -> None:
    lab = lab_with_images
    place = tmp_path / "small"
    place.mkdir()
    environment = {**lab.environment, "PLACE": str(place), "TOOL": shlex.join(lab.argv()), "SIZE": "80m",
                   "FROM": str(own.directory)}  # fmt: skip
    index = lab.argv("recording", "index", place / "full")
    _, said = in_user_name_space(["/bin/sh", "-c", NO_SPACE, "sh", *index], environment, tmp_path)
    assert "no space left in" in said
    assert "status 1" in said
    assert "(100.0 %)" in said


def test_the_distance_bounds_the_number_of_snapshots() -> None:
    for total in (1, 999_999, 1_000_000, 1_500_001, 6_807_260, 50_000_000, 6_059_688_952, 10**12):
        every = laying.distance(total)
        found = list(laying.positions(every, 0, total))
        assert len(found) <= laying.MOST
        assert all(0 < one < total for one in found)
        assert every >= laying.LEAST_DISTANCE


def test_the_command_of_a_start_at_a_snapshot_keeps_the_recording_s_files() -> None:
    argv = ["qemu", "-machine", "pc,accel=tcg", "-m", "128M", "-icount", "shift=auto,rr=replay,rrfile=log",
            "-drive", "file=disk0,format=raw,id=disk0-file,snapshot=on,if=none",
            "-drive", "file=disk1,format=raw,id=disk1-file,media=cdrom,readonly=on,if=none"]  # fmt: skip
    made = Start(Path("/a,b"), loads=True, memory=Path("/m")).argv(argv)
    assert made[:3] == ["qemu", "-drive", "if=none,id=state,format=qcow2,file=/a,,b/state"]
    assert "shift=auto,rr=replay,rrfile=log,rrsnapshot=rr" in made
    assert "file=/a,,b/disk0,format=qcow2,id=disk0-file,backing.driver=raw,backing.file.filename=disk0,if=none" in made
    assert argv[-1] in made
    assert "pc,accel=tcg,memory-backend=pc.ram" in made
    assert made[-1] == "memory-backend-file,id=pc.ram,share=on,size=128M,mem-path=/m"
    assert [bool(DISK.fullmatch(word)) for word in argv[-3:]] == [True, False, False]


def test_a_hung_qemu_at_a_snapshot_is_replaced(truth: Truth, quick: RelayClient) -> None:
    quick.goto(truth.first + 7)
    pid = quick.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    os.kill(int(child), signal.SIGSTOP)
    quick.ask(BACK_STEP)
    assert quick.registers() == truth.registers[6]
