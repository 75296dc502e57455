"""`rumplab debug`: GDB's command line, and the choice of machine and symbols."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.labfixture import LabPrefix, host_tool
from support.running import started, until

from rumplab.commands import debug
from rumplab.errors import RumplabError, UsageError
from rumplab.gdb import command_line
from rumplab.gdb.command_line import Session
from rumplab.guest import lines
from rumplab.host import ports
from rumplab.lab import config
from rumplab.machine import qmp
from rumplab.machine.registry import Machine, Machines, open_machines

SESSION = Session(gdb="/g", gdbinit="/i", remote="127.0.0.1:1234", program="/p")


def executed(argv: list[str]) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == "-ex"]


@pytest.fixture
def store(empty_lab: LabPrefix) -> Iterator[Machines]:
    empty_lab.component("gdb", {"gdb": "/bin/echo"})
    machines = open_machines(config.load())
    yield machines
    for machine in machines.all():
        machines.retire(machine)


def claim(store: Machines, name: str, program: str | None = None, digest: str | None = None) -> Machine:
    wanted = Machine(name=name, directory="", program=program, program_sha256=digest)
    return store.claim(wanted, numbered=False)


def test_symbols_come_before_the_stub_and_the_breakpoint_after() -> None:
    argv = debug.gdb_argv(replace(SESSION, location="main", commands=("bt",)))
    assert argv[:4] == ["/g", "-q", "-ix", "/i"]
    assert executed(argv) == [
        "set architecture i386:x86-64",
        "set remotetimeout 10",
        'file "/p"',
        *command_line.attached("target remote 127.0.0.1:1234"),
        *command_line.run_to("main", "hbreak"),
        "bt",
    ]


def test_sources_of_the_component_that_the_program_is_from(empty_lab: LabPrefix, tmp_path: Path) -> None:
    program = tmp_path / "p"
    program.touch()
    link = tmp_path / "link"
    link.symlink_to(program)
    empty_lab.component("demo", {"program": str(link), "source": "/src/demo it"})
    lab = config.load()
    assert debug.sources_of(lab, str(program)) == "/src/demo it"
    assert debug.sources_of(lab, str(tmp_path / "q")) is None
    assert debug.sources_of(lab, None) is None
    argv = executed(debug.gdb_argv(replace(SESSION, sources="/src/demo it")))
    assert argv.index('directory "/src/demo it"') < argv.index("target remote 127.0.0.1:1234")


def test_batch_reads_no_file_of_the_user() -> None:
    argv = debug.gdb_argv(replace(SESSION, batch=True, gdbinit=None, scripts=("/s",), extra=("-x", "/t")))
    assert argv[:4] == ["/g", "-q", "-nx", "-batch"]
    assert argv[-4:] == ["-x", "/s", "-x", "/t"]
    assert "-ix" not in argv


def test_without_program_no_file_command() -> None:
    assert not any(word.startswith("file") for word in executed(debug.gdb_argv(replace(SESSION, program=None))))


def test_quoting_for_gdb() -> None:
    assert command_line.gdb_quote('/a b/"c"\\d') == '"/a b/\\"c\\"\\\\d"'


@pytest.mark.parametrize("location", ["", "main\nshell rm x", "a\x00"])
def test_a_location_is_one_line(location: str) -> None:
    with pytest.raises(UsageError, match="must be one line"):
        command_line.checked_location(location)


def test_the_only_machine_needs_no_name(store: Machines) -> None:
    with pytest.raises(RumplabError, match="no machine is running; start one"):
        debug.choose(store, None)
    first = claim(store, "first")
    assert debug.choose(store, None) == first
    claim(store, "second")
    with pytest.raises(RumplabError, match="2 machines are running, so name one: first, second"):
        debug.choose(store, None)
    assert debug.choose(store, "first") == first


def test_symbols(store: Machines, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "p"
    program.write_bytes(b"program")
    good = claim(store, "good", str(program), hashlib.sha256(b"program").hexdigest())
    assert command_line.symbols_of(good) == str(program)
    assert capsys.readouterr().err == ""
    assert command_line.symbols_of(replace(good, program_sha256="0" * 64)) == str(program)
    assert "has changed since it was staged" in capsys.readouterr().err
    assert command_line.symbols_of(replace(good, program=f"{program}x")) is None
    assert "is gone" in capsys.readouterr().err
    assert command_line.symbols_of(replace(good, program=None)) is None
    assert "no program on record" in capsys.readouterr().err


def test_dry_run_prints_a_shell_line(empty_lab: LabPrefix, store: Machines, tmp_path: Path) -> None:
    program = tmp_path / "a b'ü"
    program.touch()
    machine = claim(store, "m", str(program))
    result = empty_lab.tool("debug", "m", "main", "--dry-run", "--ex", "p 1", "--", "-x", "f")
    assert result.returncode == 0, result.stderr
    argv = shlex.split(result.stdout)
    assert argv[0] == "/bin/echo"
    assert f'file "{program}"' in argv
    assert any(word.startswith("target remote | ") and machine.stub in word for word in argv)
    assert argv[-4:] == ["-ex", "p 1", "-x", "f"]


@pytest.mark.parametrize("place", ["pci_device_fnd", "pci_device_found if buss == 1", "main.c:99999"])
def test_a_breakpoint_that_cannot_be_set_leaves_the_machine_stopped(lab: LabPrefix, pcihello: Path, place: str) -> None:
    machine = started(lab, pcihello, "--wait", "--name", "typo")
    result = lab.tool("debug", "typo", place, "--batch", "--ex", "print 111111 * 8", timeout=30)
    assert result.returncode == 1, result.stdout
    assert "888888" not in result.stdout
    assert re.search("not defined|No symbol|No line|no line", result.stderr)
    assert qmp.execute(Path(machine["directory"], "qmp.sock"), "query-status")["status"] == "prelaunch"
    assert Path(machine["directory"], "serial.log").read_bytes() == b""
    # The same machine stops at a place that exists.
    result = lab.tool("debug", "typo", "pci_device_found", "--batch", "--ex", "print 111111 * 8", timeout=30)
    assert (result.returncode, "888888" in result.stdout) == (0, True), result.stderr


def test_a_machine_that_ends_before_the_breakpoint_gives_a_status(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello, "--wait", "--name", "ends")
    session = lab.start("debug", "ends", "pci_device_found if bus == 99", "--batch", "--ex", "print 111111 * 8")
    until(lambda: "done" in Path(machine["directory"], "serial.log").read_text())
    assert lab.tool("stop", "ends").returncode == 0
    said, complaint = session.communicate(timeout=30)
    assert session.returncode == 1, complaint
    assert "888888" not in said


def test_a_stub_that_does_not_answer_gives_a_status(lab: LabPrefix, pcihello: Path) -> None:
    """GDB is run without the tool, since the tool asks QEMU first."""
    nobody = f"{ports.LOOPBACK}:{ports.free()}"
    session = replace(SESSION, gdb=host_tool("gdb"), gdbinit=None, program=None, remote=nobody, batch=True)
    argv = debug.gdb_argv(replace(session, commands=("print 111111 * 8",)))
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "888888" not in done.stdout


@pytest.mark.parametrize("mine", [True, False])
def test_a_second_debugger_is_told_at_once_who_is_attached(lab: LabPrefix, pcihello: Path, mine: bool) -> None:
    machine = started(lab, pcihello, "--wait", "--name", "two")
    stub = f"target remote {machine['directory']}/gdb.sock"
    argv = lab.argv("debug", "two") if mine else [host_tool("gdb"), "-q", "-nx", "-ex", stub]
    with subprocess.Popen(
        argv, env=lab.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as first:
        assert first.stdin is not None
        try:
            machine_record = open_machines(config.load()).find("two")
            until(lambda: lines.taken(machine_record, lines.STUB))
            began = time.monotonic()
            result = lab.tool("debug", "two", "--batch")
            assert time.monotonic() - began < 5
            assert result.returncode == 1
            assert "another debugger is attached to two (" in result.stderr
            assert f"pid {first.pid})" in result.stderr
        finally:
            first.communicate(b"detach\nquit\n", timeout=20)
    assert lab.tool("debug", "two", "--batch").returncode == 0


def test_a_machine_that_is_stopped_is_told_at_once(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello, "--wait", "--name", "still")
    os.kill(machine["pid"], signal.SIGSTOP)
    try:
        began = time.monotonic()
        result = lab.tool("debug", "still", "--batch")
        assert time.monotonic() - began < 10
    finally:
        os.kill(machine["pid"], signal.SIGCONT)
    assert result.returncode == 1
    assert "still doesn't answer" in result.stderr


def test_a_conditional_command_is_spelled_by_arithmetic() -> None:
    command = command_line.either("flag", "quit", "stop", " 1")
    for value, word in ((0, "quit"), (1, "stop")):
        values = command.split('", ')[1].replace("$flag", str(value)).split(", ")
        assert "".join(chr(eval(one)) for one in values) == word


def test_wrong_arguments_are_refused(empty_lab: LabPrefix, store: Machines) -> None:
    claim(store, "m")
    for arguments, message in (
        (("m", "main"), "'main' needs symbols"),
        (("m", "--symbols", "/nonexistent"), "/nonexistent: no such file"),
        (("m", "--script", "/nonexistent"), "/nonexistent: no such file"),
        (("n",), "no machine called 'n' is running; running: m"),
    ):
        result = empty_lab.tool("debug", *arguments)
        assert result.returncode == 1
        assert message in result.stderr


def test_gdb_that_is_not_provisioned(empty_lab: LabPrefix) -> None:
    result = empty_lab.tool("debug")
    assert result.returncode == 3
    assert "./provision --tags gdb" in result.stderr
