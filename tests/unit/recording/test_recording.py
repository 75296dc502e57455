"""``rumplab run --record``, ``rumplab recording`` and ``rumplab replay``, with QEMU."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.labfixture import LabPrefix
from support.recordings import DONE, newest, recorded
from support.running import image, until
from support.staging import in_user_name_space

from rumplab.errors import RumplabError
from rumplab.host import process
from rumplab.recording import log, record
from rumplab.recording.record import Recording


@pytest.fixture
def demo(lab: LabPrefix, pcihello: Path) -> Recording:
    return recorded(lab, pcihello)


def failed(lab: LabPrefix, *arguments: str | Path) -> str:
    result = lab.tool(*arguments)
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_program_is_recorded_and_replayed_bit_for_bit(lab: LabPrefix, demo: Recording) -> None:
    assert demo.end is not None
    assert not demo.end.mended
    assert demo.console.read_bytes().endswith(b"pcihello: done\r\n")
    for _ in range(3):
        result = lab.tool("replay", demo.name, "--check")
        assert result.returncode == 0, result.stderr
        assert result.stdout == demo.console.read_text()


def test_the_recording_of_an_image_has_a_copy_of_the_disk(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    disk = image(lab, pcihello, tmp_path / "hello.img")
    made = recorded(lab, disk)
    assert made.symbols == pcihello.name
    # A later change of the disk doesn't matter.
    disk.write_bytes(bytes(disk.stat().st_size))
    assert lab.tool("replay", made.name, "--check").returncode == 0
    # A change of the copy does.
    with (made.directory / "disk0").open("r+b") as copy:
        copy.seek(1 << 20)
        copy.write(b"another content")
    assert "disk0 has changed" in failed(lab, "replay", made.name)
    assert "disk0 has changed" in failed(lab, "debug", made.name, "--replay", "--batch")


def test_a_message_says_that_the_default_card_is_another_one(lab: LabPrefix, pcihello: Path) -> None:
    result = lab.tool("run", pcihello, "--exit-device", "--record")
    assert result.returncode == DONE
    assert "the card is a virtio" in result.stderr
    assert "1af4:1000" in result.stdout
    assert lab.tool("replay", "pcihello", "--check").returncode == 0


def test_a_run_with_an_e1000_is_replayed(lab: LabPrefix, pcihello: Path) -> None:
    made = recorded(lab, pcihello, "--nic", "e1000")
    result = lab.tool("replay", made.name, "--check")
    assert result.returncode == 0, result.stderr
    assert "8086:100e" in result.stdout


def test_a_machine_in_the_background_is_recorded_until_it_is_stopped(lab: LabPrefix, pcihello: Path) -> None:
    result = lab.tool("run", pcihello, "--detach", "--record")
    assert result.returncode == 0, result.stderr
    until(lambda: "done" in lab.tool("logs", "pcihello").stdout)
    assert "recording" in lab.tool("recording", "ls").stdout
    assert "still being recorded by machine 'pcihello'" in failed(lab, "replay", "pcihello")
    assert "still being recorded" in failed(lab, "recording", "rm", "pcihello")
    assert lab.tool("stop", "pcihello").returncode == 0
    result = lab.tool("replay", "pcihello", "--check")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("pcihello: done\n")
    # The machine's own log is the recording's console.
    assert lab.tool("logs", "pcihello").stdout == result.stdout


def test_a_killed_qemu_leaves_a_recording_up_to_its_last_event(lab: LabPrefix, pcihello: Path) -> None:
    assert lab.tool("run", pcihello, "--detach", "--record").returncode == 0
    until(lambda: "done" in lab.tool("logs", "pcihello").stdout)
    time.sleep(0.5)
    (machine,) = lab.machines()
    os.kill(machine["pid"], signal.SIGKILL)
    until(lambda: not process.alive(machine["pid"], machine["token"]))
    made = newest(lab)
    assert made.end is not None
    assert made.end.mended
    assert "mended" in lab.tool("recording", "ls").stdout
    assert lab.tool("replay", made.name).returncode == 0


def test_a_replay_stops_at_until(lab: LabPrefix, demo: Recording) -> None:
    result = lab.tool("replay", demo.name, "--until", "pci_device_found", "--check")
    assert result.returncode == 0, result.stderr
    assert re.search(r"stopped at instruction \d+ of \d+, pc 0x[1-9a-f]", result.stderr)
    assert result.stdout.count("class") == 1
    result = lab.tool("replay", demo.name, "--until", "1000")
    assert "stopped at instruction 1000 of" in result.stderr
    assert "use a smaller number with --until" in failed(lab, "replay", demo.name, "--until", "99999999999")
    assert "GDB found no 'nosuch'" in failed(lab, "replay", demo.name, "--until", "nosuch")


def test_an_altered_recording_is_refused_and_the_file_named(lab: LabPrefix, demo: Recording, pcihello: Path) -> None:
    for name in ("log", "console", demo.symbols or ""):
        path = demo.directory / name
        before = path.read_bytes()
        path.write_bytes(before[:-3])
        assert f"{path} has changed" in failed(lab, "replay", demo.name)
        path.write_bytes(before[:50] + b"\xff" + before[51:])
        assert f"{path} has changed" in failed(lab, "recording", "verify", demo.name)
        path.unlink()
        assert f"{path} is missing" in failed(lab, "replay", demo.name)
        path.write_bytes(before)
    path = demo.directory / record.RECORD
    path.write_text(path.read_text().replace("128M", "256M"))
    assert f"{path} is damaged" in failed(lab, "replay", demo.name)
    # The others are still listed, and it can be removed.
    assert "damaged" in lab.tool("recording", "ls").stdout
    assert lab.tool("recording", "rm", demo.name).returncode == 0
    assert not demo.directory.exists()


def test_another_qemu_is_refused_with_the_differences(lab: LabPrefix, demo: Recording) -> None:
    record.write(replace(demo, version="QEMU emulator version 6.0.0", firmware="0" * 64))
    said = failed(lab, "replay", demo.name)
    assert "QEMU emulator version 6.0.0 recorded it" in said
    assert "firmware" in said


def test_a_packed_and_unpacked_recording_is_the_same(lab: LabPrefix, demo: Recording, tmp_path: Path) -> None:
    packed = tmp_path / "demo.tar.zst"
    result = lab.tool("recording", "pack", demo.name, "-o", packed)
    assert result.returncode == 0, result.stderr
    # It can be replayed as it is, and leaves nothing. A debugger needs it unpacked.
    result = lab.tool("replay", packed, "--check")
    assert (result.returncode, result.stdout) == (0, demo.console.read_text()), result.stderr
    assert "unpack it first" in failed(lab, "debug", packed, "--replay", "--batch")
    assert "already" in failed(lab, "recording", "unpack", packed)
    assert lab.tool("recording", "unpack", packed, "--name", "theirs").returncode == 0
    assert lab.tool("replay", "theirs", "--check").returncode == 0
    # Both directories have everything that was typed, and the disks.
    for directory in (demo.directory, demo.directory.parent / "theirs"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    content = packed.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 5):
        packed.write_bytes(content[:cut])
        failed(lab, "recording", "unpack", packed, "--name", "cut")
        failed(lab, "replay", packed)
    assert not (demo.directory.parent / "cut").exists()
    assert not list(demo.directory.parent.glob(".rumplab-*"))


def test_a_recording_in_a_chosen_directory_can_be_moved(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    place = tmp_path / "a, b"
    result = lab.tool("run", pcihello, "--exit-device", f"--record={place}")
    assert result.returncode == DONE, result.stderr
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    moved = place.rename(tmp_path / "c d")
    assert lab.tool("replay", moved, "--check").returncode == 0
    again = lab.tool("run", pcihello, "--exit-device", f"--record={moved}")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_recorded_machine_takes_no_snapshot_but_a_dump(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    assert lab.tool("run", pcihello, "--detach", "--record").returncode == 0
    until(lambda: "done" in lab.tool("logs", "pcihello").stdout)
    assert "pcihello is being recorded, and can't go back to a snapshot" in failed(lab, "snap", "pcihello", "x")
    dumped = lab.tool("dump", "pcihello", "-o", tmp_path / "demo.core")
    assert dumped.returncode == 0, dumped.stderr
    assert lab.tool("stop", "pcihello").returncode == 0
    result = lab.tool("replay", "pcihello", "--check")
    assert result.returncode == 0, result.stderr


def test_a_recorded_run_takes_no_actions_for_a_panic(lab: LabPrefix, pcihello: Path) -> None:
    result = lab.tool("run", pcihello, "--record", "--on-panic", "dump")
    assert result.returncode == 2
    assert "--record and --on-panic can't be used together" in result.stderr
    assert json.loads(lab.tool("recording", "ls", "--json").stdout) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--accel", "kvm"], "--record counts instructions, which --accel kvm can't"),
        (["--", "-smp", "2"], "a recording has one CPU"),
        (["--", "-accel", "kvm"], "leave out '--' and what follows it"),
    ],
)
def test_a_machine_that_qemu_cannot_record_does_not_start(
    lab: LabPrefix, pcihello: Path, words: list[str], why: str
) -> None:
    result = lab.tool("run", pcihello, "--record", *words)
    assert result.returncode == 2
    assert why in result.stderr
    assert json.loads(lab.tool("recording", "ls", "--json").stdout) == []


def test_the_printed_commands_record(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    result = lab.tool("run", pcihello, "--exit-device", "--record", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert all(shlex.split(line) for line in result.stdout.splitlines())
    done = subprocess.run(
        ["/bin/sh", "-ec", result.stdout], cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert done.returncode == DONE
    assert log.read(tmp_path / "pcihello.recording" / "log").ended


def test_a_machine_that_does_not_start_leaves_no_recording(lab: LabPrefix, pcihello: Path) -> None:
    assert lab.tool("run", pcihello, "--detach", "--name", "one").returncode == 0
    assert "is running" in failed(lab, "run", pcihello, "--record", "--name", "one")
    # QEMU refuses this after it has created its log.
    for way in ((), ("--detach",)):
        said = failed(lab, "run", pcihello, "--record", "--memory", "9999999G", *way)
        assert "QEMU" in said
    assert json.loads(lab.tool("recording", "ls", "--json").stdout) == []


NO_SPACE = """
mount -t tmpfs -o size=$SIZE,mode=700 tmpfs "$PLACE"
"$@"
echo "status $?"
mount -o remount,size=1m "$PLACE"
$TOOL replay "$PLACE/full"
"""


@pytest.mark.parametrize("size", ["52k", "56k"])
def test_no_space_for_the_log_spoils_the_recording_but_not_the_run(
    lab: LabPrefix, pcihello: Path, tmp_path: Path, size: str
) -> None:
    """Also if QEMU has space again at the end, so that the log looks complete."""
    place = tmp_path / "small"
    place.mkdir()
    environment = {**lab.environment, "PLACE": str(place), "TOOL": shlex.join(lab.argv()), "SIZE": size}
    run = lab.argv("run", pcihello, "--exit-device", f"--record={place}/full")
    _, said = in_user_name_space(["/bin/sh", "-c", NO_SPACE, "sh", *run], environment, tmp_path)
    assert "pcihello: done" in said
    assert "replay write error" in said
    assert "status 1" in said
    assert said.count("full is incomplete: QEMU had no space for a part of its log") == 2


def test_no_space_for_the_copies_prevents_the_start(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    script = 'mount -t tmpfs -o size=16k,mode=700 tmpfs "$1"; d=$1; shift; "$@"; echo "status $?"; ls -A "$d"'
    run = lab.argv("run", pcihello, "--exit-device", f"--record={place}/full")
    _, said = in_user_name_space(["/bin/sh", "-c", script, "sh", place, *run], lab.environment, tmp_path)
    assert "no space left in" in said
    assert said.endswith("status 1\n")
    assert lab.machines() == []


def test_an_unknown_name_is_refused(lab: LabPrefix) -> None:
    assert "there is no recording 'nosuch'; make one with" in failed(lab, "replay", "nosuch")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1}', '{"schema": 2}', "[" * 100000])
def test_a_malformed_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / record.RECORD).write_text(content)
    with pytest.raises(RumplabError, match=r"recording\.json"):
        record.read(tmp_path)


def test_input_on_a_terminal_is_replayed(lab: LabPrefix, kgdb_kernel: tuple[str, Path], tmp_path: Path) -> None:
    """The small kernel reads commands from its console; the last one powers the machine off."""
    console = tmp_path / "console"
    with console.open("wb") as output:
        process = subprocess.Popen(
            lab.argv("run", kgdb_kernel[1], "--record", "--name", "typed"),
            env=lab.environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.DEVNULL,
        )
    try:
        assert process.stdin is not None
        for prompt, line in (("login: ", "root"), ("# ", "echo words"), ("\r\nwords\r\n", "poweroff")):
            until(lambda prompt=prompt: prompt.encode() in console.read_bytes())
            process.stdin.write(f"{line}\r".encode())
            process.stdin.flush()
        assert process.wait(30) == 0
    finally:
        process.terminate()
        process.communicate(timeout=30)
    result = lab.tool("replay", "typed", "--check")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("words") == 2


def test_keys_of_a_machine_with_a_screen_are_replayed(lab: LabPrefix, pcihello: Path) -> None:
    assert lab.tool("run", pcihello, "--record", "--console", "vga").returncode == 2
    assert lab.tool("run", pcihello, "--record", "--console", "vga", "--detach").returncode == 0
    until(lambda: "done" in lab.tool("screen", "pcihello").stdout)
    assert lab.tool("type", "pcihello", "hello", "--key", "ret").returncode == 0
    assert lab.tool("stop", "pcihello").returncode == 0
    made = newest(lab)
    data = made.log.read_bytes()
    at, events = log.HEADER, set()
    while at < len(data) and data[at] != log.END:
        events.add(data[at])
        at += log.length_of(data, at, len(data)) or len(data)
    assert log.INPUT in events
    assert lab.tool("replay", made.name, "--check").returncode == 0
