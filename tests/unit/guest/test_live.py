"""Guests from start to stop: examples/kgdb in QEMU, the host's GDB, and other programs that interfere."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.labfixture import LabPrefix, host_tool
from support.running import gone, until
from support.staging import needs_compiler, needs_qemu

from rumplab.guest import kernel_debugger
from rumplab.guest.definition import open_guests
from rumplab.guest.lines import DEBUGGER, socket_path
from rumplab.lab import config
from rumplab.machine import qmp
from rumplab.machine.registry import Machine, open_machines

pytestmark = [pytest.mark.qemu, needs_qemu, needs_compiler]

# Tests that don't depend on the architecture run on amd64 only.
one_architecture = pytest.mark.parametrize("kgdb_kernel", ["amd64"], indirect=True)
BATCH = ("--batch", "--ex")
PATIENCE = 120


@pytest.fixture
def guests(lab: LabPrefix) -> LabPrefix:
    """A lab whose component qemu has qemu-img, too."""
    lab.component("qemu", {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")})
    return lab


@pytest.fixture
def nb(guests: LabPrefix, kgdb_kernel: tuple[str, Path]) -> LabPrefix:
    """A guest `nb` of examples/kgdb, not started."""
    architecture, kernel = kgdb_kernel
    made = guests.tool("guest", "create", "nb", "--arch", architecture, "--kernel", kernel)
    assert made.returncode == 0, made.stderr
    return guests


def guest(lab: LabPrefix, *words: str | Path) -> str:
    """Return the output of `rumplab guest WORDS`, which must succeed."""
    result = lab.tool("guest", *words, timeout=PATIENCE)
    assert result.returncode == 0, f"{result.stderr}\nthe console:\n{lab.tool('logs', 'nb').stdout[-3000:]!r}"
    return result.stdout


def refused(lab: LabPrefix, *words: str | Path, status: int = 1) -> str:
    result = lab.tool("guest", *words, timeout=PATIENCE)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stderr


def listed(lab: LabPrefix, name: str = "nb") -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(guest(lab, "list", "--json"))
    return next(item for item in found if item["name"] == name)


def machine(name: str = "nb") -> Machine:
    return open_machines(config.load()).find(name)


def said(lab: LabPrefix, name: str = "nb") -> str:
    return lab.tool("logs", name).stdout


@pytest.fixture
def debugger(nb: LabPrefix) -> Iterator[subprocess.Popen[str]]:
    """Start the guest, and a GDB that attaches to it and stays."""
    guest(nb, "start", "nb", "--kgdb")
    child = nb.start("guest", "debug", "nb", "--batch", "--ex", "shell sleep 20")
    until(lambda: listed(nb)["debugger"], 30)
    yield child
    child.kill()
    child.wait(10)
    for pipe in (child.stdout, child.stderr):
        assert pipe is not None
        pipe.close()


def test_from_waiting_to_powered_off(nb: LabPrefix) -> None:
    assert "debug it with: rumplab guest debug nb\n" in guest(nb, "start", "nb", "--kgdb")
    until(lambda: listed(nb)["state"] == "waits")
    assert "kgdb_connect" in guest(nb, "debug", "nb", *BATCH, "bt")
    # GDB has detached, so the kernel runs.
    until(lambda: "login:" in said(nb))
    assert listed(nb)["state"] == "running"
    complaint = refused(nb, "debug", "nb", *BATCH, "bt")
    assert "nb runs; stop it in its debugger first: rumplab guest break nb; or use --break" in complaint
    assert guest(nb, "break", "nb").startswith("nb is in its debugger;")
    assert guest(nb, "break", "nb").startswith("nb is in its debugger already;")
    assert "workload" in guest(nb, "debug", "nb", *BATCH, "bt")
    at = guest(nb, "debug", "nb", "counter_step", "--break", *BATCH, "info args", "--ex", "delete")
    assert re.search(r"Breakpoint 1, counter_step .*\namount = [0-3]", at, re.DOTALL)
    assert guest(nb, "stop", "nb") == "nb stopped\n"
    assert "shutdown -p now" in said(nb)
    assert listed(nb)["state"] == "stopped"
    assert nb.machines() == []


@one_architecture
def test_a_guest_is_a_machine_like_every_other(nb: LabPrefix) -> None:
    guest(nb, "start", "nb")
    (record,) = nb.machines()
    assert (record["name"], record["guest"], record["state"]) == ("nb", "run", "running")
    for name in ("com0.sock", "com1.sock", "qmp.sock"):
        mode = stat.S_IMODE((Path(record["directory"]) / name).stat().st_mode)
        assert mode == 0o600, name
    until(lambda: "login:" in said(nb))
    assert f"127.0.0.1:{listed(nb)['ssh']}" in guest(nb, "list")
    assert nb.tool("stop", "nb").stdout == "nb stopped\n"
    assert gone(record)
    kept = [path for path in Path(record["directory"]).parent.glob(".ended/nb/*") if path.is_socket()]
    assert kept == []


@one_architecture
def test_running_already(nb: LabPrefix) -> None:
    guest(nb, "start", "nb")
    assert "nb is running already (pid" in refused(nb, "start", "nb", "--kgdb")
    assert "nb is running (pid" in refused(nb, "delete", "nb")
    assert len(nb.machines()) == 1


@one_architecture
def test_a_second_debugger_is_told_about_the_first(nb: LabPrefix, debugger: subprocess.Popen[str]) -> None:
    complaint = refused(nb, "debug", "nb", *BATCH, "bt")
    assert "another debugger is attached to nb (pid " in complaint
    assert debugger.poll() is None
    # QEMU's debug stub is still free: the first debugger uses the serial line.
    assert "rip" in guest(nb, "debug", "nb", "--qemu-stub", *BATCH, "info registers rip")


@one_architecture
def test_another_program_at_the_line_is_reported_as_such(nb: LabPrefix) -> None:
    guest(nb, "start", "nb", "--kgdb")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(socket_path(machine(), DEBUGGER)))
        until(lambda: listed(nb)["debugger"])
        assert f"pid {os.getpid()})" in refused(nb, "debug", "nb", *BATCH, "bt")
    until(lambda: not listed(nb)["debugger"])
    assert "kgdb_connect" in guest(nb, "debug", "nb", *BATCH, "bt")


@one_architecture
def test_the_guest_dies_under_its_debugger(nb: LabPrefix) -> None:
    guest(nb, "start", "nb", "--kgdb")
    record = machine()
    # The read is long, so that the machine ends between two replies.
    child = nb.start("guest", "debug", "nb", *BATCH, "dump memory /dev/null 0x100000 0x140000")
    until(lambda: listed(nb)["debugger"], 30)
    os.kill(record.pid, signal.SIGKILL)
    output, errors = child.communicate(timeout=60)
    assert "the guest has closed its line" in output + errors
    assert listed(nb)["state"] == "stopped"
    assert "start it with" in refused(nb, "debug", "nb", *BATCH, "bt")
    guest(nb, "start", "nb", "--kgdb")
    assert "kgdb_connect" in guest(nb, "debug", "nb", *BATCH, "bt")


@one_architecture
def test_noise_on_the_line_before_the_debugger(nb: LabPrefix) -> None:
    guest(nb, "start", "nb", "--kgdb")
    until(lambda: listed(nb)["state"] == "waits")
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(socket_path(machine(), DEBUGGER)))
        line.sendall(b"\xff\x7f\r\nlogin: $g#00$m10")
        line.settimeout(1)
        line.recv(100)
    assert kernel_debugger.stopped(machine())
    assert "kgdb_connect" in guest(nb, "debug", "nb", *BATCH, "bt")


@one_architecture
def test_a_kernel_in_its_debugger_cannot_shut_down(nb: LabPrefix) -> None:
    guest(nb, "start", "nb", "--kgdb")
    until(lambda: listed(nb)["state"] == "waits")
    assert "nb is stopped in its debugger" in refused(nb, "pci", "nb")
    assert guest(nb, "stop", "nb") == "nb ended without shutting down: its kernel is stopped in its debugger\n"


@one_architecture
def test_a_guest_that_qemu_holds(nb: LabPrefix) -> None:
    guest(nb, "start", "nb", "--qemu-stub", "--wait")
    for subverb in ("debug", "break"):
        assert "held by QEMU's own debug stub (prelaunch)" in refused(nb, subverb, "nb")
    assert guest(nb, "stop", "nb") == "nb ended without shutting down: QEMU has stopped it (prelaunch)\n"


def test_the_same_kernel_by_qemus_stub(nb: LabPrefix) -> None:
    guest(nb, "start", "nb", "--qemu-stub", "--wait")
    at = guest(nb, "debug", "nb", "main", "--qemu-stub", *BATCH, "bt 1", "--ex", "delete")
    assert "Breakpoint 1, main" in at
    until(lambda: "login:" in said(nb))
    assert guest(nb, "stop", "nb") == "nb stopped\n"


@one_architecture
def test_the_power_button_where_nobody_is_logged_in(nb: LabPrefix) -> None:
    """Another program has the console, so `guest stop` can only press the power button."""
    guest(nb, "start", "nb")
    until(lambda: "login:" in said(nb))
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(socket_path(machine(), "com0")))
        until(lambda: "disconnected" not in str(qmp.execute(machine().socket, "query-chardev")[0]["filename"]))
        assert guest(nb, "stop", "nb") == "nb stopped\n"
    assert "power button pressed" in said(nb)


@one_architecture
def test_the_console_by_a_pipe(nb: LabPrefix) -> None:
    guest(nb, "start", "nb")
    until(lambda: "login:" in said(nb))
    result = subprocess.run(
        nb.argv("guest", "console", "nb"),
        env=nb.environment,
        input=b"root\runame\r",
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert re.search(rb"# uname\r\nkgdbdemo/\w+\r\n# $", result.stdout)


@one_architecture
def test_the_console_at_a_terminal(nb: LabPrefix) -> None:
    """Another verb can use the console while the user has it, and Ctrl-] leaves it."""
    guest(nb, "start", "nb")
    until(lambda: "login:" in said(nb))
    ours, theirs = os.openpty()
    session = subprocess.Popen(
        nb.argv("guest", "console", "nb"), env=nb.environment, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
    )
    seen = bytearray()
    over = threading.Event()

    def show() -> None:
        # A terminal reads all the time.
        while not over.is_set():
            if select.select([ours], [], [], 0.1)[0]:
                seen.extend(os.read(ours, 1000))

    terminal = threading.Thread(target=show)
    terminal.start()
    try:
        until(lambda: b"login: " in seen)
        assert "is open already (pid" in refused(nb, "console", "nb")
        assert "pchb0" in guest(nb, "pci", "nb")
        os.write(ours, b"uname\r")
        until(lambda: b"kgdbdemo/" in seen.rpartition(b"# uname")[2])
        os.write(ours, b"\x1d")
        assert session.wait(10) == 0
    finally:
        over.set()
        terminal.join(10)
    assert session.stderr is not None
    assert b"Ctrl-] leaves it" in session.stderr.read()
    session.stderr.close()
    os.close(ours)
    os.close(theirs)


@one_architecture
def test_the_console_of_a_guest_that_ends(nb: LabPrefix) -> None:
    guest(nb, "start", "nb")
    until(lambda: "login:" in said(nb))
    session = subprocess.Popen(
        nb.argv("guest", "console", "nb"), env=nb.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert session.stdin is not None
    assert session.stderr is not None
    session.stdin.write(b"root\rpoweroff\r")
    session.stdin.flush()
    # The test keeps the input open, so that only the end of the guest can end the session.
    assert session.wait(60) == 0
    assert b"nb has closed its console" in session.stderr.read()
    session.stdin.close()
    session.stderr.close()


@one_architecture
def test_the_devices_of_the_guest(nb: LabPrefix) -> None:
    guest(nb, "start", "nb")
    until(lambda: "login:" in said(nb))
    found = json.loads(guest(nb, "pci", "nb", "--json"))
    assert {"bus": 1, "device": 1, "function": 0, "driver": "wm0"}.items() <= found[-1].items()
    assert re.search(r"^0 +3 +0 +\S.* +ppb0$", guest(nb, "pci", "nb"), re.MULTILINE)


@one_architecture
def test_two_guests_at_once(nb: LabPrefix, kgdb_kernel: tuple[str, Path], tmp_path: Path) -> None:
    architecture, kernel = kgdb_kernel
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    guest(nb, "create", "one", "--arch", architecture, "--kernel", kernel, "--disk", disk)
    guest(nb, "create", "two", "--arch", architecture, "--kernel", kernel, "--disk", disk)
    for name in ("one", "two"):
        guest(nb, "start", name, "--kgdb")
    first, second = listed(nb, "one"), listed(nb, "two")
    assert first["ssh"] != second["ssh"]
    assert first["stub"] != second["stub"]
    guest(nb, "debug", "one", *BATCH, "set variable counter = 4711")
    assert "kgdb_connect" in guest(nb, "debug", "two", *BATCH, "print counter", "--ex", "bt")
    assert guest(nb, "stop", "--all", "--now") == "one stopped\ntwo stopped\n"


@one_architecture
def test_writes_are_kept_only_with_persist(nb: LabPrefix, kgdb_kernel: tuple[str, Path], tmp_path: Path) -> None:
    architecture, kernel = kgdb_kernel
    disk = tmp_path / "root.img"
    disk.write_bytes(bytes(1 << 20))
    guest(nb, "create", "kept", "--arch", architecture, "--kernel", kernel, "--disk", disk)
    guest(nb, "start", "kept", "--persist")
    assert machine("kept").image == str(open_guests(config.load()).directory("kept") / "disk.qcow2")
    guest(nb, "stop", "kept", "--now")
    assert listed(nb, "kept")["kept"]
    guest(nb, "start", "kept")
    assert machine("kept").snapshot
    guest(nb, "stop", "kept", "--now")
    disk.write_bytes(b"else\0\0\0\0" * (1 << 17))
    complaint = refused(nb, "start", "kept")
    assert "has changed since" in complaint
    assert "rumplab guest delete kept" in complaint
    assert nb.machines() == []
    # Without an overlay, the changed base is accepted.
    guest(nb, "delete", "kept")
    guest(nb, "create", "kept", "--arch", architecture, "--kernel", kernel, "--disk", disk)
    guest(nb, "start", "kept")


@one_architecture
def test_a_guest_without_disk_has_nothing_to_keep(nb: LabPrefix) -> None:
    assert "nb has no disk" in refused(nb, "start", "nb", "--persist", status=2)


@one_architecture
def test_a_kernel_that_is_gone(nb: LabPrefix, kgdb_kernel: tuple[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copy(kgdb_kernel[1], tmp_path / "netbsd"))
    guest(nb, "create", "moved", "--kernel", copy)
    copy.unlink()
    assert f"{copy} of guest 'moved' is gone" in refused(nb, "start", "moved")
    assert listed(nb, "moved")["state"] == "stopped"


@one_architecture
def test_the_printed_commands_start_it_too(nb: LabPrefix) -> None:
    line = guest(nb, "start", "nb", "--kgdb", "--dry-run", "--", "-no-reboot")
    assert line.rstrip().endswith("-no-reboot")
    assert nb.machines() == []
    debug = nb.tool("guest", "start", "nb", "--kgdb")
    assert debug.returncode == 0
    command = guest(nb, "debug", "nb", "main", "--dry-run")
    assert "target remote |" in command
    # The command after each of the two ends GDB if that has failed.
    after_break = command.partition(" -ex 'break main' -ex ")[2]
    assert " -ex continue -ex " in after_break
    assert all("$rumplab_held" in part for part in after_break.split(" -ex continue -ex "))


@one_architecture
def test_a_failed_guest_is_dumped_and_the_dump_has_the_kernels_stack_and_messages(nb: LabPrefix, out: Path) -> None:
    # The login prompt stands for a panic message.
    words = ["guest", "start", "nb", "--accel", "tcg", "--on-panic", "dump", "--panic-pattern", "^login: "]
    started = subprocess.run(
        nb.argv(*words), env=nb.environment, cwd=out, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert started.returncode == 0, started.stderr
    core = out / "nb.core"
    until(lambda: core.exists() and not nb.machines(), PATIENCE)
    assert "nb has failed: its console printed: login: " in nb.tool("logs", "nb").stderr
    shown = nb.tool("debug", "--core", core, *BATCH, "bt", "--ex", "nb-dmesg")
    assert re.search(r"^#\d+ .*\bmain \(", shown.stdout, re.MULTILINE), shown.stderr
    # The message buffer, printed by nb-dmesg.
    assert "login: " in shown.stdout


@one_architecture
def test_a_failed_guest_stays_stopped_and_is_debugged_by_qemus_stub(nb: LabPrefix, out: Path) -> None:
    guest(nb, "start", "nb", "--accel", "tcg", "--on-panic", "stop", "--panic-pattern", "^login: ")
    until(lambda: listed(nb)["state"] == "paused", PATIENCE)
    assert "nb has failed: its console printed: login: " in nb.tool("logs", "nb").stderr
    assert re.search(r"^#\d+ .*\bmain \(", guest(nb, "debug", "nb", "--qemu-stub", *BATCH, "bt"), re.MULTILINE)
    assert nb.tool("stop", "nb").returncode == 0
