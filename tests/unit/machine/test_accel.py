"""The accelerator probe: its guest, its time limit, and how long its answer is cached."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from support.labfixture import host_tool

from rumplab.machine import accel
from rumplab.machine.accel import Result

HANG = "exec sleep 60"
FAIL = "echo 'first' >&2; echo 'could not initialise' >&2; exit 1"
# Answers at once for tcg, and after 0.5 s for any other accelerator.
SLOW_HARDWARE = 'case "$3" in *tcg) ;; *) sleep 0.5 ;; esac; echo x >> "$0.runs"; exec "$0.guest"'
SLOW_TCG = 'case "$3" in *tcg) sleep 0.5 ;; esac; echo x >> "$0.runs"; exec "$0.guest"'
HUNG_HARDWARE = 'case "$3" in *tcg) exec "$0.guest" ;; *) exec sleep 60 ;; esac'
WORK = 'exec "$0.guest"'
# A guest with a debug stub on standard input and output. Its arguments: the prefix of the packets that it refuses,
# and `passes` if it runs past its breakpoint.
GUEST = f"""\
import os, sys
refused, stops = sys.argv[1] if sys.argv[1:] else "-", "passes" not in sys.argv
buffer, waiting = b"", 0
while True:
    more = os.read(0, 4096)
    if not more:
        break
    buffer += more
    while b"#" in buffer and len(buffer.partition(b"#")[2]) >= 2:
        head, _, rest = buffer.partition(b"#")
        packet, buffer = head.partition(b"$")[2].decode(), rest[2:]
        answer = "E22" if packet.startswith(refused) else "OK"
        if packet == "c":
            if not waiting or not stops:
                sys.exit({accel.EXIT_CODE})
            answer = "T05thread:01;"
        waiting = waiting + 1 if packet[0] == "Z" and answer == "OK" else waiting - (packet[0] == "z")
        os.write(1, b"+$%s#%02x" % (answer.encode(), sum(answer.encode()) & 255))
"""


def fake(directory: Path, body: str) -> str:
    path = directory / "qemu"
    # The shift makes $3 the value of -machine.
    path.write_text(f'#!/bin/sh\nset -- x "$@"\n{body}\n', encoding="utf-8")
    path.chmod(0o755)
    guest = directory / "qemu.guest"
    guest.write_text(f"#!{sys.executable} -IS\n{GUEST}", encoding="utf-8")
    guest.chmod(0o755)
    return str(path)


@pytest.fixture
def with_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a KVM device node (here a plain file)."""
    node = tmp_path / "kvm"
    node.touch()
    monkeypatch.setattr(accel, "KVM", node)
    monkeypatch.setattr(accel.sys, "platform", "linux")
    return node


def runs(emulator: str) -> int:
    log = Path(f"{emulator}.runs")
    return len(log.read_text(encoding="utf-8").split()) if log.exists() else 0


def test_rom_starts_at_the_reset_vector() -> None:
    rom = accel.rom()
    assert len(rom) == 65536
    assert rom[0xFFF0] == 0xE9
    offset = int.from_bytes(rom[0xFFF1:0xFFF3], "little")
    assert (0xFFF3 + offset) & 0xFFFF == 0


def test_hang_is_bounded(tmp_path: Path) -> None:
    began = time.monotonic()
    result = accel.probe(fake(tmp_path, HANG), "kvm", seconds=0.5)
    assert time.monotonic() - began < 15
    assert not result.works
    assert "did not finish" in result.detail


def test_failure_keeps_what_qemu_said(tmp_path: Path) -> None:
    result = accel.probe(fake(tmp_path, FAIL), "kvm")
    assert (result.works, result.detail) == (False, "could not initialise")


def test_an_end_without_the_exit_is_a_failure(tmp_path: Path) -> None:
    result = accel.probe(fake(tmp_path, "exit 0"), "kvm")
    assert (result.works, result.detail) == (False, "QEMU ended with 0")


def test_success(tmp_path: Path) -> None:
    assert accel.probe(fake(tmp_path, WORK), "tcg").works


def test_an_accelerator_that_runs_a_guest_and_refuses_to_debug_it_is_not_taken(tmp_path: Path) -> None:
    for kind, named in (("Z1", "hardware"), ("Z0", "software")):
        result = accel.probe(fake(tmp_path, f"{WORK} {kind}"), "kvm")
        assert (result.works, result.detail) == (
            False,
            f"runs a guest but can't debug it: a {named} breakpoint is refused (E22)",
        )


def test_an_accelerator_that_runs_past_a_breakpoint_is_not_taken(tmp_path: Path) -> None:
    result = accel.probe(fake(tmp_path, f"{WORK} - passes"), "kvm")
    assert not result.works
    assert result.detail == "runs a guest but can't debug it: QEMU ended before a hardware breakpoint was hit"


@pytest.mark.usefixtures("with_kvm")
def test_the_cached_answer_of_an_older_probe_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = fake(tmp_path, SLOW_TCG)
    monkeypatch.setattr(accel, "PROBE", accel.PROBE - 1)
    accel.decide(emulator, "1", tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(accel, "KVM", tmp_path / "kvm")
    monkeypatch.setattr(accel.sys, "platform", "linux")
    assert not accel.decide(emulator, "1", tmp_path).remembered


@pytest.mark.parametrize(
    ("results", "chosen"),
    [
        ([Result("kvm", True, 0.1), Result("tcg", True, 0.3)], "kvm"),
        ([Result("kvm", True, 4.0), Result("tcg", True, 0.3)], "tcg"),
        ([Result("kvm", False, 5.0), Result("tcg", True, 0.3)], "tcg"),
        ([Result("hvf", True, 0.1), Result("tcg", False, 0.3)], "hvf"),
        ([Result("kvm", False, 5.0), Result("tcg", False, 0.3)], "tcg"),
    ],
)
def test_choice(results: list[Result], chosen: str) -> None:
    assert accel.choose(results) == chosen


def test_without_hardware_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "KVM", tmp_path / "absent")
    monkeypatch.setattr(accel.sys, "platform", "linux")
    emulator = fake(tmp_path, SLOW_TCG)
    assert accel.decide(emulator, "1", tmp_path).chosen == "tcg"
    assert runs(emulator) == 0


@pytest.mark.usefixtures("with_kvm")
def test_hung_hardware_ends_up_on_tcg(tmp_path: Path) -> None:
    began = time.monotonic()
    assert accel.decide(fake(tmp_path, HUNG_HARDWARE), "1", tmp_path, seconds=0.5).chosen == "tcg"
    assert time.monotonic() - began < 15


@pytest.mark.usefixtures("with_kvm")
def test_the_quickest_is_taken_and_remembered(tmp_path: Path) -> None:
    emulator = fake(tmp_path, SLOW_TCG)
    first = accel.decide(emulator, "1", tmp_path)
    assert (first.chosen, first.remembered) == ("kvm", False)
    again = accel.decide(emulator, "1", tmp_path)
    assert (again.chosen, again.remembered, again.results) == ("kvm", True, first.results)
    assert runs(emulator) == 2
    assert not accel.decide(emulator, "1", tmp_path, reprobe=True).remembered
    assert runs(emulator) == 4


def test_the_answer_is_forgotten_when_qemu_or_the_device_changes(tmp_path: Path, with_kvm: Path) -> None:
    emulator = fake(tmp_path, SLOW_HARDWARE)
    assert accel.decide(emulator, "1", tmp_path).chosen == "tcg"
    assert not accel.decide(emulator, "2", tmp_path).remembered
    os.utime(with_kvm, (1, 1))
    assert not accel.decide(emulator, "2", tmp_path).remembered
    assert accel.decide(emulator, "2", tmp_path).remembered


@pytest.mark.usefixtures("with_kvm")
def test_a_damaged_or_unwritable_cache_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    emulator = fake(tmp_path, SLOW_TCG)
    (tmp_path / accel.CACHE).write_text("{", encoding="utf-8")
    assert accel.decide(emulator, "1", tmp_path).chosen == "kvm"
    assert accel.decide(emulator, "1", tmp_path / "absent").chosen == "kvm"
    assert "cannot store the choice of the accelerator" in capsys.readouterr().err


@pytest.mark.qemu
def test_tcg_runs_the_rom() -> None:
    result = accel.probe(host_tool("qemu-system-x86_64"), "tcg", seconds=20)
    assert result.works, result.detail


@pytest.mark.qemu
def test_an_unknown_accelerator_says_so() -> None:
    result = accel.probe(host_tool("qemu-system-x86_64"), "nonesuch")
    assert not result.works
    assert "nonesuch" in result.detail
