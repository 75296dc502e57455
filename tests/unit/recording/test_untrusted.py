"""Recordings from others. Their maker can write any record with a right seal, and any files with right hashes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.labfixture import LabPrefix, host_tool
from support.recordings import recorded, unrecorded
from support.staging import command as program
from support.staging import in_user_name_space, needs_root

from rumplab.errors import RumplabError
from rumplab.lab import config
from rumplab.machine import sandbox
from rumplab.machine.registry import open_machines
from rumplab.recording import command, opening, record
from rumplab.recording.record import Recording

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def made(tmp_path: Path) -> Recording:
    (tmp_path / "a").mkdir()
    return unrecorded(tmp_path / "a", bytes(100))


def forge(directory: Path, change: Change) -> None:
    """Change the record in `directory`, and seal it again."""
    path = directory / record.RECORD
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps({**data, record.SEAL: record.seal(data)}))


def exchange(recording: Recording, name: str, content: bytes) -> None:
    """Change a file of the recording, with its hash."""
    (recording.directory / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()

    def change(data: dict[str, Any]) -> None:
        for part in data["parts"]:
            if part["name"] == name:
                part["sha256"] = digest
        if name in data["end"]:
            data["end"][name] = digest

    forge(recording.directory, change)


def hardware(**changes: Any) -> Change:
    return lambda data: data["hardware"].update(changes)


def part(name: str) -> Change:
    return lambda data: data["parts"].append({"name": name, "sha256": "0" * 64, "origin": ""})


CARD = {"model": "virtio", "mac": "54:54:00:55:55:55", "slot": 0}
DISK = {"format": "raw", "controller": "virtio"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (part("../out"), "'../out' can't name a file"),
        (part("/etc/passwd"), "'/etc/passwd' can't name a file"),
        (part("a/b"), "'a/b' can't name a file"),
        (part(".used"), "'.used' can't name a file"),
        (part("log"), "'log' can't name a file"),
        (part("a\0b"), r"'a\\x00b' can't name a file"),
        (part(""), "'' can't name a file"),
        (lambda data: data.update(symbols="/etc/passwd"), "'/etc/passwd' is missing"),
        (lambda data: data.update(parts=[1]), "is not of type dict"),
        (lambda data: data.update(argv=[1]), "is not of type str"),
        (lambda data: data.pop("hardware"), "'hardware'"),
        (hardware(program="/etc/passwd"), "'/etc/passwd' is missing"),
        (hardware(program="../app.bin"), "'../app.bin' is missing"),
        (hardware(module=True), "'module' is missing"),
        (hardware(disks=[DISK]), "'disk0' is missing"),
        (hardware(boots=True), "disks or its serial ports are missing"),
        (hardware(memory="64M,slots=2"), "'64M,slots=2' is not a memory size"),
        (hardware(memory="9" * 30), "is not a memory size"),
        (hardware(arguments="a\0b"), "NUL"),
        (hardware(arguments=["-drive"]), "is not of type"),
        (hardware(ports=3), "disks or its serial ports are missing"),
        (hardware(extra=["-drive", "file=/etc/passwd"]), "unexpected keyword argument 'extra'"),
        (hardware(cards=[{**CARD, "model": "e1000,romfile=/etc/passwd"}]), "there is no card"),
        (hardware(cards=[{**CARD, "mac": "54:54:00:55:55:55,id=x"}]), "is not an Ethernet address"),
        (hardware(cards=[{**CARD, "slot": 99}]), "there is no card"),
        (hardware(cards=[{**CARD, "net": "bridge"}]), "unexpected keyword argument 'net'"),
        (hardware(cards=[CARD] * 10), "10 network cards"),
    ],
)
def test_a_record_that_rumplab_never_writes_is_refused(made: Recording, change: Change, why: str) -> None:
    forge(made.directory, change)
    with pytest.raises(RumplabError, match=why):
        record.read(made.directory)


@pytest.mark.parametrize(
    ("drive", "why"),
    [
        ({**DISK, "format": "vmdk"}, "there is no 'vmdk' disk"),
        ({**DISK, "format": "raw,file.filename=/etc/passwd"}, "there is no 'raw,file"),
        ({**DISK, "controller": "virtio,drive=x"}, "on 'virtio,drive=x'"),
        ({**DISK, "file": "/etc/passwd"}, "unexpected keyword argument 'file'"),
    ],
)
def test_a_disk_that_rumplab_never_records_is_refused(made: Recording, drive: dict[str, str], why: str) -> None:
    forge(made.directory, part("disk0"))
    forge(made.directory, hardware(disks=[drive]))
    with pytest.raises(RumplabError, match=why):
        record.read(made.directory)


@pytest.mark.parametrize("name", ["recording.json", "log", "console", "messages", "app.bin"])
@pytest.mark.parametrize("kind", ["a link", "a pipe", "a directory"])
def test_a_recording_with_a_link_or_a_pipe_is_refused_at_once(made: Recording, name: str, kind: str) -> None:
    path, elsewhere = made.directory / name, made.directory.parent / "elsewhere"
    if path.exists():
        path.rename(elsewhere)
    if kind == "a link":
        path.symlink_to(elsewhere)
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(RumplabError, match=f"{name} is {kind}, which no recording has"):
        record.read(made.directory)


def test_a_record_is_not_written_through_a_link(made: Recording) -> None:
    victim = made.directory.parent / "victim"
    victim.write_text("mine")
    (made.directory / ".recording.json").symlink_to(victim)
    record.write(made)
    assert victim.read_text() == "mine"
    assert record.read(made.directory) == made


def test_the_replays_command_has_nothing_of_a_command_in_the_record(lab: LabPrefix, pcihello: Path) -> None:
    """Neither the QEMU, nor an argument, nor a missing sandbox comes from the record."""
    demo = recorded(lab, pcihello)
    flag = lab.runtime / "flag"
    script = lab.runtime / "script"
    script.write_text(f"#!/bin/sh\ntouch {flag}\n")
    script.chmod(0o755)
    evil = [str(script), "-netdev", f"tap,id=x,script={script}", "-chardev", f"file,id=y,path={flag}"]
    forge(demo.directory, lambda data: data.update(emulator=str(script), argv=evil, replay=evil, sandbox=None))
    result = lab.tool("replay", demo.name, "--check")
    assert result.returncode == 0, result.stderr
    assert not flag.exists()
    with opening.opened(config.load(), open_machines(config.load()), demo.name) as found:
        argv = command.replay_argv(found, "out")
    assert argv[0] == host_tool("qemu-system-x86_64")
    assert not any(str(lab.runtime) in word for word in argv)
    assert argv[argv.index("-sandbox") + 1] == sandbox.CLOSED
    (network,) = (word for word in argv if word.startswith("user,"))
    assert "restrict=on" in network and "hostfwd" not in network and "guestfwd" not in network


def test_a_disk_that_names_a_file_of_yours_is_not_opened(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    secret, disk = tmp_path / "secret", tmp_path / "disk"
    secret.write_bytes(bytes(1 << 20))
    qemu_img = [program("qemu-img"), "create", "-q", "-f", "qcow2"]
    subprocess.run([*qemu_img, str(disk), "1M"], check=True, timeout=60)
    demo = recorded(lab, pcihello, "--drive", disk)
    assert demo.hardware.disks[0].format == "qcow2"
    subprocess.run([*qemu_img, "-b", str(secret), "-F", "raw", str(disk), "1M"], check=True, timeout=60)
    exchange(demo, "disk0", disk.read_bytes())
    for words in (("replay", demo.name), ("debug", demo.name, "--replay", "--batch")):
        result = lab.tool(*words)
        assert result.returncode == 1
        assert f"disk0 has the backing file '{secret}', which is not a file of the recording" in result.stderr


@pytest.mark.parametrize("content", [b"", bytes(range(255, 0, -1)) * 16, b"\x09" + bytes(4) + b"\xff" * 4])
def test_a_log_of_any_content_ends_the_replay_with_an_error(lab: LabPrefix, pcihello: Path, content: bytes) -> None:
    demo = recorded(lab, pcihello)
    whole = demo.log.read_bytes()
    exchange(demo, "log", whole[: len(whole) // 2] + content)
    result = lab.tool("replay", demo.name)
    assert result.returncode == 1
    assert f"{demo.name} can't be replayed: " in result.stderr
    assert "Traceback" not in result.stderr


def test_symbols_run_no_commands_in_gdb(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    """GDB executes the scripts in an ELF file's section .debug_gdb_scripts, unless the file is in a trusted place."""
    demo = recorded(lab, pcihello)
    flag, section, evil = tmp_path / "flag", tmp_path / "section", tmp_path / "evil.elf"
    section.write_bytes(b"\x04x\nimport os; os.mkdir(%r)\n\0" % str(flag))
    added = f".debug_gdb_scripts={section}"
    argv = [program("objcopy"), "--add-section", added, str(pcihello), str(evil)]
    subprocess.run(argv, check=True, timeout=60)
    exchange(demo, demo.symbols or "", evil.read_bytes())
    words = ["debug", demo.name, "--replay", "--batch"]
    result = lab.tool(*words, "--ex", "info symbol main")
    assert "main in section" in result.stdout, result.stderr
    assert not flag.exists()
    trusted = lab.tool(*words, "--", "-iex", "set auto-load safe-path /")
    assert flag.exists(), f"the section is wrong, so the test shows nothing: {trusted.stderr}"


def test_control_characters_of_a_record_do_not_reach_the_terminal(lab: LabPrefix, pcihello: Path) -> None:
    demo = recorded(lab, pcihello)

    def change(data: dict[str, Any]) -> None:
        data["machine"] = data["version"] = "\x1b[2J"
        data["argv"] = ["\x1b]0;x\x07"]
        data["parts"][0]["origin"] = "/there/\x1b[31m"

    forge(demo.directory, change)
    for words in (("recording", "ls"), ("recording", "show", demo.name), ("replay", demo.name)):
        result = lab.tool(*words)
        assert not {"\x1b", "\x07"} & set(result.stdout + result.stderr)
        assert "?[2J" in result.stdout + result.stderr or "/there/?[31m" in result.stdout


@needs_root
def test_a_directory_of_another_user_is_refused(lab: LabPrefix, made: Recording) -> None:
    os.chown(made.directory, 65534, 65534)
    result = lab.tool("replay", made.directory)
    assert result.returncode == 1
    assert "belongs to another user (uid 65534)" in result.stderr


def test_a_packed_recording_does_not_fill_the_disk(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    demo = recorded(lab, pcihello)
    exchange(demo, "console", os.urandom(4 << 20))
    packed = tmp_path / "demo.tar.zst"
    assert lab.tool("recording", "pack", demo.name, "-o", packed).returncode == 0
    place = tmp_path / "small"
    place.mkdir()
    script = 'mount -t tmpfs -o size=6m,mode=700 tmpfs "$1"; d=$1; shift; "$@"; echo "status $?"; find "$d" -size +1k'
    environment = {**lab.environment, "XDG_STATE_HOME": str(place)}
    argv: list[str | Path] = ["/bin/sh", "-c", script, "sh", place, *lab.argv("replay", packed)]
    _, said = in_user_name_space(argv, environment, tmp_path)
    assert "takes more than half of the free space" in said
    assert said.endswith("status 1\n")
