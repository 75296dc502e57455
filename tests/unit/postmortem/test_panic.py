"""Machines whose guests fail, under --on-panic."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.demos import ROOT, build
from support.labfixture import LabPrefix
from support.running import gone, until
from support.staging import command

from rumplab import output
from rumplab.cli import main
from rumplab.errors import RumplabError
from rumplab.gdb import command_line
from rumplab.host import process
from rumplab.lab import config
from rumplab.machine import qmp
from rumplab.machine.registry import Machine
from rumplab.postmortem import panic, panic_policy

DUMP_LINE = "dump: {}; open it with: rumplab debug --core {}\n"


@pytest.fixture(scope="session")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of tests/fixtures/panic."""
    command("gcc")
    command("make")
    return build(ROOT / "tests/fixtures/panic", tmp_path_factory.mktemp("failing") / "failing.bin")


def ran(
    lab: LabPrefix, out: Path, program: Path, how: str, *options: str, actions: str = "dump"
) -> subprocess.CompletedProcess[str]:
    """Runs the program, which fails in the way `how`, in the directory `out`."""
    argv = lab.argv("run", program, "--accel", "tcg", "--args", how, "--on-panic", actions, *options)
    return subprocess.run(
        argv,
        env=lab.environment,
        cwd=out,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("how", "options", "cause"),
    [
        ("p", (), "it reported a panic to pvpanic"),
        ("e", ("--exit-device",), "it ended with status 35"),
        ("t", (), "the processor was reset, for example by a triple fault"),
        ("r", (), "the processor was reset"),
        ("c", ("--panic-pattern", "^panic: .*bananas"), "its console printed: panic: no more bananas"),
    ],
)
def test_a_failure_is_dumped_and_traced(
    lab: LabPrefix, out: Path, failing: Path, how: str, options: tuple[str, ...], cause: str
) -> None:
    result = ran(lab, out, failing, how, *options)
    assert result.returncode == panic_policy.FAILED, result.stderr
    assert "ready" in result.stdout
    assert f"failing has failed: {cause}" in result.stderr
    # The trace from the failing function to main, with symbols.
    assert re.search(
        r"^#\d+ .*\bfail \(how=.*\n(#.*\n)*#\d+ .*\bwork .*\n#\d+ .*\bmain \(", result.stderr, re.MULTILINE
    )
    core = out / "failing.core"
    assert result.stderr.endswith(DUMP_LINE.format(core, core))
    again = lab.tool("debug", "--core", core, "--batch", "--ex", "bt")
    assert re.search(r"#\d+ .*\bmain \(", again.stdout), again.stderr
    assert lab.machines() == []
    if how == "t":
        # The trace is of the failing instruction, not of the BIOS after the reset.
        assert "ud2" in result.stderr


@pytest.mark.qemu
@pytest.mark.parametrize(("how", "options", "code"), [("g", ("--exit-device",), 33), ("o", (), 0)])
def test_a_successful_end_is_not_a_failure(
    lab: LabPrefix, out: Path, failing: Path, how: str, options: tuple[str, ...], code: int
) -> None:
    result = ran(lab, out, failing, how, *options)
    assert (result.returncode, "failed" in result.stderr) == (code, False), result.stderr
    assert list(out.iterdir()) == []


@pytest.mark.qemu
def test_success_sets_the_status_that_is_not_a_failure(lab: LabPrefix, out: Path, failing: Path) -> None:
    assert ran(lab, out, failing, "e", "--exit-device", "--success", "35").returncode == 35
    assert ran(lab, out, failing, "g", "--exit-device", "--success", "35").returncode == panic_policy.FAILED


@pytest.mark.qemu
def test_an_earlier_dump_is_kept(lab: LabPrefix, out: Path, failing: Path) -> None:
    (out / "failing.core").write_text("the first one")
    result = ran(lab, out, failing, "p")
    assert (out / "failing-2.core").stat().st_size > 128 << 20
    assert "failing-2.core" in result.stderr
    assert (out / "failing.core").read_text() == "the first one"


@pytest.mark.qemu
def test_a_script_runs_on_the_dump(lab: LabPrefix, out: Path, failing: Path) -> None:
    script = out / "look.gdb"
    script.write_text('up 3\nprintf "it was told %s\\n", (char *) (unsigned long) info->command_line\n')
    result = ran(lab, out, failing, "p", actions=f"script:{script}")
    assert result.returncode == panic_policy.FAILED
    assert re.search(r"it was told .*failing\.bin p\n", result.stderr), result.stderr


@pytest.mark.qemu
@pytest.mark.parametrize("how", ["in GDB", "in its shell", "in a session of its own"])
def test_a_script_that_never_ends_is_killed_and_the_trace_is_kept(
    lab: LabPrefix, out: Path, failing: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    assert ran(lab, out, failing, "p").returncode == panic_policy.FAILED
    number = f"{os.getpid()}9"
    endless = {
        "in GDB": "while 1\nend\n",
        "in its shell": f"shell sleep {number}\n",
        "in a session of its own": f"shell setsid sleep {number}\n",
    }
    script = out / "endless.gdb"
    # A file of GDB commands needs no permission to be executed.
    script.write_text(f"echo begun\\n\n{endless[how]}")
    script.chmod(0o600)
    monkeypatch.setattr(panic, "TRACE_SECONDS", 4.0)
    began = time.monotonic()
    shown = panic.trace(config.load(), out / "failing.core", [str(script)])
    assert time.monotonic() - began < 15
    assert re.search(r"^#\d+ .*\bmain \((.*\n)+begun\n", shown, re.MULTILINE), shown
    assert shown.endswith(f"GDB did not end within 4 s and was killed; does {script} wait for something?")
    left = [int(path.name) for path in Path("/proc").glob("[0-9]*") if words(path) == ["sleep", number]]
    for pid in left:
        os.kill(pid, 9)
    assert len(left) == (how == "in a session of its own")


@pytest.mark.qemu
def test_a_failed_dump_is_reported_and_the_status_stays(lab: LabPrefix, out: Path, failing: Path) -> None:
    directory = out / "gone"
    directory.mkdir()
    argv = lab.argv("run", failing, "--accel", "tcg", "--args", "p", "--on-panic", "dump", "--wait")
    with subprocess.Popen(
        argv, env=lab.environment, cwd=directory, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        until(lambda: bool(lab.machines()))
        directory.rmdir()
        until(lambda: bool(lab.machines()) and not lab.machines()[0]["state"].startswith("starting"))
        lab.tool("debug", "failing", "--batch")
        _, said = child.communicate(timeout=60)
    assert child.returncode == panic_policy.FAILED
    assert b"no dump: " in said and b"gone" in said


@pytest.mark.qemu
def test_a_dump_is_written_even_if_the_debugger_does_not_run(lab: LabPrefix, out: Path, failing: Path) -> None:
    broken = out / "gdb"
    broken.write_text("#!/nonexistent/interpreter\n")
    broken.chmod(0o755)
    lab.component("gdb", {"gdb": str(broken)})
    result = ran(lab, out, failing, "p")
    assert result.returncode == panic_policy.FAILED
    assert "no trace: " in result.stderr and "Traceback" not in result.stderr
    assert (out / "failing.core").stat().st_size > 128 << 20


@pytest.mark.qemu
def test_a_machine_whose_log_cannot_be_read_is_ended(
    lab: LabPrefix, out: Path, failing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, pattern: str | None) -> panic.Console:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(panic, "Console", refuse)
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(out)
    words = ["run", str(failing), "--accel", "tcg", "--on-panic", "dump", "--console", "serial"]
    assert main.main(words) == panic_policy.FAILED
    assert lab.machines() == []


@pytest.mark.qemu
def test_stop_leaves_the_machine_where_it_failed(lab: LabPrefix, out: Path, failing: Path) -> None:
    argv = lab.argv("run", failing, "--accel", "tcg", "--args", "p", "--on-panic", "stop")
    with subprocess.Popen(
        argv, env=lab.environment, cwd=out, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        until(lambda: [one["state"] for one in lab.machines()] == ["guest-panicked"])
        shown = lab.tool("debug", "failing", "--batch", "--ex", "bt")
        assert re.search(r"#\d+ .*\bfail \(how=", shown.stdout), shown.stderr
        assert lab.tool("stop", "failing").returncode == 0
        _, said = child.communicate(timeout=30)
    assert child.returncode == panic_policy.FAILED
    assert b"the machine is stopped there; attach with: rumplab debug failing" in said
    assert list(out.iterdir()) == []


@pytest.mark.qemu
def test_a_machine_in_the_background_is_watched(lab: LabPrefix, out: Path, failing: Path) -> None:
    argv = lab.argv("run", failing, "--accel", "tcg", "--args", "c", "--detach", "--on-panic", "dump")
    argv += ["--panic-pattern", "^panic"]
    result = subprocess.run(argv, env=lab.environment, cwd=out, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    until(lambda: (out / "failing.core").exists() and not lab.machines(), 60)
    told = lab.tool("logs", "failing")
    assert "panic: no more bananas" in told.stdout
    assert re.search(r"rumplab logs: failing has failed: its console printed: panic: no .*; more in /", told.stderr)
    report = Path(told.stderr.rpartition("more in ")[2].strip()).read_text()
    assert re.search(r"^#\d+ .*\bmain \(", report, re.MULTILINE)


@pytest.mark.qemu
def test_a_machine_that_is_stopped_by_its_user_has_not_failed(lab: LabPrefix, out: Path, failing: Path) -> None:
    argv = lab.argv("run", failing, "--accel", "tcg", "--args", "x", "--detach", "--on-panic", "dump")
    result = subprocess.run(argv, env=lab.environment, cwd=out, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    (machine,) = lab.machines()
    until(lambda: "ready" in Path(machine["directory"], "serial.log").read_text())
    watchers = watching(machine)
    assert lab.tool("stop", "failing").returncode == 0
    assert gone(machine)
    until(lambda: not any(process.started(pid) for pid in watchers), 10)
    assert "failed" not in lab.tool("logs", "failing").stderr
    assert list(out.iterdir()) == []


def watching(machine: dict[str, Any]) -> list[int]:
    """Returns the IDs of the processes that watch the machine."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if words(path)[-2:] == ["watch", machine["name"]]]
    assert found
    return found


def words(path: Path) -> list[str]:
    try:
        return (path / "cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


@pytest.mark.qemu
def test_the_debugger_opens_on_the_terminal(lab: LabPrefix, out: Path, failing: Path) -> None:
    ours, theirs = pty.openpty()
    argv = lab.argv("run", failing, "--accel", "tcg", "--args", "p", "--on-panic", "debug")
    environment = {**lab.environment, "TERM": "dumb"}
    with subprocess.Popen(
        argv, env=environment, cwd=out, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as child:
        os.close(theirs)
        seen, typed = b"", False
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                seen += os.read(ours, 4096)
            except OSError:
                break
            if b"(gdb) " in seen and not typed:
                os.write(ours, b"up\nquit\n")
                typed = True
        assert child.wait(10) == panic_policy.FAILED, seen
    assert b"failing has failed: it reported a panic to pvpanic" in seen
    os.close(ours)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--on-panic", "explode"), "'explode' is not an action; use dump, debug, stop and script:FILE"),
        (("--on-panic", "dump,"), "'' is not an action"),
        (("--on-panic", "script:"), "'script:' is not an action"),
        (("--on-panic", "script:a,script:b"), "only one script can be given"),
        (("--on-panic", "dump", "--panic-pattern", "("), "'(' is not a regular expression"),
        (("--on-panic", "dump", "--panic-pattern", ".*"), "'.*' matches every line, so each machine would fail"),
        (("--panic-pattern", "x"), "--panic-pattern goes with --on-panic"),
        (("--on-panic", "debug"), "opens GDB on this terminal, and there is none"),
        (("--on-panic", "dump", "--success", "33"), "--success goes with --on-panic and --exit-device"),
        (("--on-panic", "dump", "--exit-device", "--success", "32"), "'32' is not a status of --exit-device"),
    ],
)
def test_contradicting_options_are_refused(lab: LabPrefix, pcihello: Path, words: tuple[str, ...], says: str) -> None:
    result = lab.tool("run", pcihello, *words)
    assert result.returncode == 2 and says in result.stderr, result.stderr
    assert lab.machines() == []


def test_a_missing_script_is_named_before_the_machine_starts(lab: LabPrefix, pcihello: Path) -> None:
    result = lab.tool("run", pcihello, "--on-panic", "script:/nowhere/x.gdb")
    assert result.returncode == 1 and "/nowhere/x.gdb: no such file" in result.stderr
    result = lab.tool("run", pcihello, "--on-panic", "script:/")
    assert result.returncode == 1 and "/: no such file" in result.stderr
    assert lab.machines() == []


def test_a_script_that_the_user_may_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "my script.gdb"
    script.touch()
    # Root may read every file.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RumplabError, match=rf"permission denied; make it readable with: chmod u\+r '{script}'"):
        command_line.check_files(str(script))


@pytest.mark.qemu
def test_a_pattern_that_matches_at_once_is_a_failure_at_once(lab: LabPrefix, out: Path, failing: Path) -> None:
    result = ran(lab, out, failing, "x", "--panic-pattern", "r?eady|SeaBIOS")
    assert result.returncode == panic_policy.FAILED
    assert "failing has failed: its console printed: " in result.stderr


def test_the_watcher_waits_until_qemu_listens_on_its_socket() -> None:
    with tempfile.TemporaryDirectory(prefix="rl") as directory:
        token = process.started(os.getpid()) or ""
        machine = Machine(name="x", directory=directory, pid=os.getpid(), token=token)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(machine.path / panic_policy.SOCKET))
        threading.Timer(0.3, server.listen).start()
        session = panic.first_session(machine)
        session.__exit__()
        server.close()
        # If the machine has ended, it doesn't wait.
        with pytest.raises(qmp.QmpError):
            panic.first_session(replace(machine, token="another life"))


def test_a_machine_without_on_panic_is_not_watched(lab: LabPrefix, pcihello: Path) -> None:
    assert lab.tool("run", pcihello, "--detach", "--wait", "--accel", "tcg").returncode == 0
    result = lab.tool("watch", "pcihello")
    assert result.returncode == 1 and "was started without --on-panic" in result.stderr
    assert qmp.status(Path(lab.machines()[0]["directory"], "qmp.sock")) == "prelaunch"


def test_control_characters_of_a_guest_do_not_reach_the_terminal() -> None:
    assert output.printable("panic: \x1b[2J\x07 \u2026 ok") == "panic: ?[2J? \u2026 ok"


def test_lines_are_matched_while_the_log_grows(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\r\ntw")
    console = panic.Console(log, "^two$")
    assert console.match() is None
    with log.open("ab") as file:
        file.write(b"o")
        file.flush()
        assert console.match() == "two"
    console.close()


def test_output_without_a_line_feed_takes_bounded_memory(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (3 << 20) + b"end")
    console = panic.Console(log, "end$")
    found = console.match()
    assert found is not None and len(found) <= panic.LONGEST_LINE
    console.close()
