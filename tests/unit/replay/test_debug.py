"""``rumplab debug NAME --replay``: reverse execution in GDB."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.labfixture import LabPrefix
from support.recordings import recorded
from support.running import image

from rumplab.recording.record import Recording

COMMANDS = """
rr-where
continue
rr-mark second
continue
reverse-continue
rr-where
reverse-stepi
rr-where
reverse-finish
rr-goto second
rr-where
rr-goto end
stepi
delete
continue
reverse-continue
rr-where
"""


@pytest.fixture
def demo(lab: LabPrefix, pcihello: Path) -> Recording:
    return recorded(lab, pcihello)


def places(said: str) -> list[int]:
    """Returns the positions that rr-where has printed."""
    return [int(found) for found in re.findall(r"instruction (\d+) of", said)]


def test_gdb_executes_backwards(lab: LabPrefix, demo: Recording, tmp_path: Path) -> None:
    script = tmp_path / "commands"
    script.write_text(COMMANDS)
    result = lab.tool("debug", demo.name, "pci_device_found", "--replay", "--batch", "--script", script)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    (mark,) = (int(found) for found in re.findall(r"^second: instruction (\d+)", said, re.MULTILINE))
    first, second, before, again, begin = places(said)
    assert first < second == mark == again
    assert before == second - 1
    assert begin == 0
    assert said.count("the recording ends here") == 1
    # `continue` at the end, and the beginning.
    assert said.count("No more reverse-execution history.") == 2
    assert said.count("Breakpoint 1, pci_device_found") == 5


def test_a_watchpoint_finds_the_function_that_wrote(lab: LabPrefix, demo: Recording) -> None:
    """The program writes its table of interrupt gates at its start, each gate in several parts."""
    watch = ("--ex", "watch *(unsigned long *)&gates", "--ex", "reverse-continue", "--ex", "bt 1", "--ex", "rr-where")
    result = lab.tool("debug", demo.name, "--replay", "--batch", "--ex", "rr-goto end", *watch)
    assert result.returncode == 0, result.stderr
    found = re.search(r"Old value = (\d+)\nNew value = (\d+)\n", result.stdout)
    assert found, result.stdout
    assert found[1] != found[2]
    assert " in traps_init ()" in result.stdout


@pytest.mark.parametrize(
    ("commands", "messages"),
    [
        (("rr-goto end", "reverse-stepi", "hbreak *$pc", "stepi", "reverse-continue"), 0),
        (("rr-goto end", "break *$pc", "stepi", "continue", "reverse-stepi"), 0),
        (("rr-goto end", "break *$pc", "stepi", "stepi", "stepi", "reverse-stepi"), 0),
        (("rr-goto begin", "break *$pc", "reverse-stepi", "stepi", "reverse-continue"), 2),
    ],
)
def test_gdb_goes_on_after_a_breakpoint_at_the_end_or_the_beginning(
    lab: LabPrefix, demo: Recording, commands: tuple[str, ...], messages: int
) -> None:
    words = [word for one in (*commands, "rr-where") for word in ("--ex", one)]
    result = lab.tool("debug", demo.name, "--replay", "--batch", *words)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert said.count("No more reverse-execution history.") == messages, said
    end = demo.end.instructions - 2 if demo.end else 0
    assert places(said) == [0 if "begin" in commands[0] else end]


def test_dry_run_prints_the_gdb_command(lab: LabPrefix, demo: Recording) -> None:
    result = lab.tool("debug", demo.name, "main", "--replay", "--dry-run")
    assert result.returncode == 0, result.stderr
    words = shlex.split(result.stdout)
    assert any(word.startswith("target remote | ") and str(demo.directory) in word for word in words)
    assert any(word.startswith("source ") and word.endswith("replay.gdb") for word in words)


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--replay",), 2, "needs the NAME of a recording"),
        (("nosuch", "--replay"), 1, "there is no recording 'nosuch'"),
        (("nosuch", "--replay", "--container"), 2, "can't be used with"),
        (("nosuch", "--replay", "--core", "x.core"), 2, "can't be used with"),
    ],
)
def test_wrong_arguments_start_no_session(lab: LabPrefix, words: tuple[str, ...], code: int, why: str) -> None:
    result = lab.tool("debug", *words)
    assert (result.returncode, why in result.stderr) == (code, True), result.stderr


def test_a_changed_recording_is_not_debugged(lab: LabPrefix, demo: Recording) -> None:
    demo.log.write_bytes(demo.log.read_bytes()[:-1])
    result = lab.tool("debug", demo.name, "--replay", "--batch")
    assert result.returncode == 1
    assert "has changed" in result.stderr


def test_reverse_without_a_replay_is_refused_by_gdb(lab: LabPrefix, pcihello: Path) -> None:
    assert lab.tool("run", pcihello, "--wait", "--detach").returncode == 0
    result = lab.tool("debug", "pcihello", "--batch", "--ex", "reverse-stepi")
    assert "does not support this command" in result.stderr + result.stdout


def test_gdb_executes_backwards_through_the_boot_of_a_disk(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    made = recorded(lab, image(lab, pcihello, tmp_path / "hello.img"))
    commands = ("rr-goto end", "break main", "reverse-continue", "rr-where", "rr-goto 1000000", "rr-where")
    result = lab.tool("debug", made.name, "--replay", "--batch", *(word for one in commands for word in ("--ex", one)))
    assert result.returncode == 0, result.stderr
    assert "Breakpoint 1, main (" in result.stdout
    assert places(result.stdout + result.stderr)[1] == 1000000
