"""run, ps, logs, stop and smoke with real machines."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path

import pytest
from support.labfixture import LabPrefix, host_tool
from support.running import DONE, detach, gone, image, started, until

from rumplab.host import ports
from rumplab.lab import config
from rumplab.machine import shutdown
from rumplab.machine.registry import open_machines

pytestmark = pytest.mark.qemu

# pcihello writes 0x10 to isa-debug-exit, and QEMU exits with 2 * 0x10 + 1.
EXIT_STATUS = 33


def test_two_machines_of_one_program_do_not_clash(lab: LabPrefix, pcihello: Path) -> None:
    first = started(lab, pcihello, "--wait")
    second = started(lab, pcihello)
    assert (first["name"], second["name"]) == ("pcihello", "pcihello-2")
    assert first["stub"] != second["stub"]
    until(lambda: DONE in lab.tool("logs", "pcihello-2").stdout)
    assert lab.tool("logs", "pcihello").stdout == ""
    states = {machine["name"]: machine["state"] for machine in lab.machines()}
    assert states == {"pcihello": "prelaunch", "pcihello-2": "running"}
    table = lab.tool("ps").stdout
    assert re.search(rf"^pcihello +prelaunch +{first['pid']} +socket ", table, re.M)
    assert lab.tool("stop", "pcihello").stdout == "pcihello stopped\n"
    assert gone(first)
    assert not gone(second)
    assert lab.tool("stop", "--all").stdout == "pcihello-2 stopped\n"
    assert gone(second)
    assert lab.machines() == []
    assert DONE in lab.tool("logs", "pcihello-2").stdout


def test_nothing_of_a_machine_listens_on_tcp(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello, "--wait")
    stub = Path(machine["stub"])
    assert (stub.parent.stat().st_mode & 0o777, stub.stat().st_mode & 0o777) == (0o700, 0o600)
    assert listeners(machine["pid"]) == []


def test_a_stub_on_a_port_is_on_loopback_and_warned_of(lab: LabPrefix, pcihello: Path) -> None:
    port = ports.free()
    result = detach(lab, pcihello, "--wait", "--gdb-port", str(port))
    assert result.returncode == 0, result.stderr
    assert f"the debug stub on 127.0.0.1:{port} is open to every user of this host" in result.stderr
    (machine,) = lab.machines()
    assert listeners(machine["pid"]) == [f"0100007F:{port:04X}"]


def test_a_command_to_the_monitor_runs_no_program(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    """A debugger's `monitor` command, at a stub on a TCP port, which any user can open."""
    port, written = ports.free(), tmp_path / "written"
    assert detach(lab, pcihello, "--wait", "--gdb-port", str(port)).returncode == 0
    said = lab.gdb(f"target remote 127.0.0.1:{port}", f'monitor migrate "exec:echo >{written}"')
    assert "Remote debugging" in said or "0x" in said
    time.sleep(0.5)
    assert not written.exists()


def listeners(pid: int) -> list[str]:
    """Return the TCP addresses that the process listens on, as /proc/net/tcp has them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return [words[1] for words in rows if words[3] == "0A" and f"socket:[{words[9]}]" in links]


def test_a_guest_that_writes_a_header_into_its_disk_gets_no_file(
    lab: LabPrefix, pcihello: Path, tmp_path: Path
) -> None:
    path, secret = image(lab, pcihello, tmp_path / "g.img"), tmp_path / "secret"
    secret.write_bytes(bytes(1 << 20))
    evil = tmp_path / "evil"
    command = [host_tool("qemu-img"), "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(evil), "1M"]
    subprocess.run(command, check=True)
    header = evil.read_bytes()
    # A boot sector's signature, which a qcow2 file may have.
    overwrite(path, header[:510] + b"\x55\xaa" + header[512:])
    result = lab.tool("run", path, "--dry-run")
    assert "format=raw" in result.stdout, result.stderr
    assert "is recorded as a raw disk and looks like qcow2 now" in result.stderr
    for arguments in ((evil,), (pcihello, "--drive", evil)):
        refused = lab.tool("run", *arguments, "--dry-run")
        assert refused.returncode == 1
        assert f"{evil} has the backing file {str(secret)!r}" in refused.stderr
    assert "format=qcow2" in lab.tool("run", evil, "--dry-run", "--allow-backing").stdout
    data = tmp_path / "data.img"
    data.write_bytes(bytes(1 << 20))
    assert "format=raw" in lab.tool("run", pcihello, "--drive", data, "--dry-run").stdout
    # As the file to boot, run would refuse the second content (VDI), and QEMU would load the third (ELF).
    for content in (header, bytes(64) + b"\x7f\x10\xda\xbe", b"\x7fELF"):
        overwrite(data, content)
        assert "format=raw" in lab.tool("run", pcihello, "--drive", data, "--dry-run").stdout


def overwrite(path: Path, content: bytes) -> None:
    """Overwrite the first bytes of the disk, as a guest can."""
    with path.open("r+b") as disk:
        disk.write(content)


def test_a_staged_image_boots_from_both_disks(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    path = image(lab, pcihello, tmp_path / "a b,ü.img")
    for disk in ("virtio", "ide"):
        machine = started(lab, path, "--disk", disk)
        assert machine["program"] == str(pcihello)
        until(lambda name=machine["name"]: DONE in lab.tool("logs", name).stdout)
        assert lab.tool("stop", machine["name"]).returncode == 0


def test_an_image_in_use_names_its_machine(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    path = image(lab, pcihello, tmp_path / "x.img")
    started(lab, path, "--wait")
    refused = detach(lab, path)
    assert refused.returncode == 1
    assert f"{path} is in use by machine 'x'" in refused.stderr
    assert len(lab.machines()) == 1


def test_snapshots_share_an_image(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    path = image(lab, pcihello, tmp_path / "x.img")
    started(lab, path, "--wait", "--snapshot")
    assert started(lab, path, "--wait", "--snapshot")["name"] == "x-2"


def test_ports(lab: LabPrefix, pcihello: Path) -> None:
    port = ports.free()
    assert started(lab, pcihello, "--gdb-port", str(port))["gdb_port"] == port
    refused = detach(lab, pcihello, "--gdb-port", str(port))
    assert refused.returncode == 1
    assert f"port {port} is taken by machine 'pcihello'" in refused.stderr
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        foreign = other.getsockname()[1]
        refused = detach(lab, pcihello, "--gdb-port", str(foreign))
    assert refused.returncode == 1
    assert f"port {foreign} on 127.0.0.1 is taken by a process that is none of your machines" in refused.stderr
    assert len(lab.machines()) == 1


def test_names(lab: LabPrefix, pcihello: Path) -> None:
    assert started(lab, pcihello, "--wait", "--name", "one")["name"] == "one"
    taken = detach(lab, pcihello, "--name", "one")
    assert (taken.returncode, len(lab.machines())) == (1, 1)
    assert "a machine called 'one' is running" in taken.stderr
    bad = detach(lab, pcihello, "--name", "a/b")
    assert bad.returncode == 2
    assert "'a/b' can't name a machine" in bad.stderr


def test_program_in_the_foreground(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    path = shutil.copy(pcihello, tmp_path / "ä, b:c.bin")
    result = lab.tool("run", path, "--accel", "tcg", "--exit-device", "--args", 'x, "y" $z')
    assert result.returncode == EXIT_STATUS, result.stderr
    assert f"{path} " + 'x, "y" $z' in result.stdout
    assert "01:01.0 8086:100e class 020000" in result.stdout
    assert DONE in result.stdout
    assert lab.machines() == []
    assert DONE in lab.tool("logs", "b-c").stdout


def test_a_program_that_ends_at_once_is_no_failure(lab: LabPrefix, pcihello: Path) -> None:
    result = detach(lab, pcihello, "--exit-device")
    assert result.returncode == 0, result.stderr
    until(lambda: lab.machines() == [])
    assert DONE in lab.tool("logs", "pcihello").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_foreground_ends_the_machine(lab: LabPrefix, pcihello: Path, number: int) -> None:
    child = lab.start("run", pcihello, "--accel", "tcg", "--wait")
    until(lambda: any(machine["state"] == "prelaunch" for machine in lab.machines()))
    machine = lab.machines()[0]
    assert machine["pid"] != child.pid
    child.send_signal(number)
    child.communicate(timeout=20)
    assert child.returncode == 128 + number
    assert gone(machine)
    assert lab.machines() == []


def test_the_terminal_is_restored_after_a_machine_was_killed(lab: LabPrefix, pcihello: Path) -> None:
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    child = subprocess.Popen(
        lab.argv("run", pcihello, "--accel", "tcg", "--wait"),
        env=lab.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: any(machine["state"] == "prelaunch" for machine in lab.machines()))
    assert termios.tcgetattr(theirs) != before
    os.kill(lab.machines()[0]["pid"], signal.SIGKILL)
    assert child.wait(20) == 128 + signal.SIGKILL
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_killed_launcher_leaves_a_machine_that_can_be_stopped(lab: LabPrefix, pcihello: Path) -> None:
    child = lab.start("run", pcihello, "--accel", "tcg", "--wait")
    until(lambda: any(machine["state"] == "prelaunch" for machine in lab.machines()))
    machine = lab.machines()[0]
    child.kill()
    # Don't wait for the end of its output: QEMU still has the pipe open.
    child.wait(20)
    assert not gone(machine)
    assert lab.tool("stop", machine["name"]).returncode == 0
    assert gone(machine)


def test_the_next_verb_removes_the_record_of_a_killed_machine(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello)
    os.kill(machine["pid"], signal.SIGKILL)
    until(lambda: lab.machines() == [])
    assert not Path(machine["directory"]).exists()
    assert started(lab, pcihello)["name"] == "pcihello"


def test_a_stopped_process_is_killed_in_bounded_time(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello)
    os.kill(machine["pid"], signal.SIGSTOP)
    began = time.monotonic()
    result = lab.tool("stop", machine["name"])
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < 15
    assert gone(machine)


def test_a_guest_that_ignores_powerdown_is_made_to_quit(
    lab: LabPrefix, pcihello: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "POWERDOWN_SECONDS", 0.5)
    machine = started(lab, pcihello)
    machines = open_machines(config.load())
    began = time.monotonic()
    assert shutdown.end(machines, machines.find("pcihello"), powerdown=True)
    assert time.monotonic() - began > 0.5
    assert gone(machine)
    assert machines.all() == []


def test_following_a_log_ends_with_the_machine(lab: LabPrefix, pcihello: Path) -> None:
    started(lab, pcihello)
    follower = lab.start("logs", "pcihello", "--follow")
    until(lambda: DONE in lab.tool("logs", "pcihello").stdout)
    assert lab.tool("stop", "pcihello").returncode == 0
    output, errors = follower.communicate(timeout=20)
    assert (follower.returncode, errors) == (0, "")
    assert output.count(DONE) == 1


def test_arguments_for_qemu(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello, "--memory", "64M", "--", "-smp", "2")
    assert machine["argv"][-2:] == ["-smp", "2"]
    refused = detach(lab, pcihello, "--", "-nonesuch")
    assert refused.returncode == 1
    assert "QEMU did not start (exit status 1)" in refused.stderr
    assert "-nonesuch: invalid option" in refused.stderr
    assert len(lab.machines()) == 1


def test_an_option_that_makes_qemu_run_a_program_is_reported_with_the_sandbox(lab: LabPrefix, pcihello: Path) -> None:
    machine = started(lab, pcihello, "--wait")
    if "-sandbox" not in machine["argv"]:
        pytest.skip("QEMU has no sandbox here")
    refused = detach(lab, pcihello, "--", "-incoming", "exec:true")
    assert refused.returncode == 1
    assert "its sandbox forbids a system call" in refused.stderr
    assert "add: -sandbox off" in refused.stderr


def test_the_printed_command_of_a_machine_in_the_background_starts_one(
    lab: LabPrefix, pcihello: Path, tmp_path: Path
) -> None:
    """QEMU itself forks into the background, which its sandbox must allow."""
    printed = lab.tool("run", pcihello, "--accel", "tcg", "--exit-device", "--detach", "--dry-run").stdout
    done = subprocess.run(["sh", "-c", printed], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    until(lambda: DONE in (tmp_path / "pcihello.bin.serial.log").read_text())


def test_the_printed_command_boots(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    path = shutil.copy(pcihello, tmp_path / "it's, a $HOME `x`.bin")
    arguments = ("--accel", "tcg", "--exit-device", "--args", "'a' \"b\" $c", "--dry-run")
    printed = lab.tool("run", path, *arguments)
    assert printed.returncode == 0, printed.stderr
    result = subprocess.run(
        ["sh", "-c", printed.stdout],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == EXIT_STATUS, result.stderr
    assert "'a' \"b\" $c" in result.stdout
    assert lab.machines() == []


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        (None, (), 1, "No such file or directory; give an image made by 'rumplab stage'"),
        (b"short", (), 1, "is neither an ELF program nor a disk image (5 bytes)"),
        (b"\x7fELF" + bytes(600), ("--disk", "ide"), 2, "is a program and has no disk"),
        (b"\x7fELF" + bytes(600), ("--snapshot",), 2, "is a program and has no disk"),
        (bytes(600), ("--disk", "none"), 2, "would leave nothing to boot"),
        (bytes(600), ("--args", "x"), 2, "--args is for a program"),
        (bytes(600), ("--accel", "warp"), 2, "invalid choice: 'warp'"),
        (bytes(600), ("--memory", "lots"), 2, "'lots' is not a memory size"),
        (bytes(600), ("--gdb-port", "99999"), 2, "'99999' is not a port"),
        (b"\x7fELF" + bytes(600), (), 1, "is an ELF file for another processor"),
        (b"\x7fELF" + bytes(600), ("--", "-m", "64M"), 1, "QEMU did not start"),
        (bytes(600), (), 1, "has no boot sector"),
        (bytes(510) + b"\x55\xaa" + bytes(600), ("--", "-daemonize"), 2, "use --detach instead"),
        (b"just words\n" * 99, (), 1, "is a text, not a disk image"),
    ],
)
def test_bad_input(
    lab: LabPrefix, tmp_path: Path, content: bytes | None, arguments: tuple[str, ...], code: int, message: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    result = detach(lab, path, *arguments)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert lab.machines() == []


def test_without_qemu(lab: LabPrefix, pcihello: Path) -> None:
    lab.component("qemu", {"qemu-system-x86_64": "/nonexistent/qemu"})
    result = detach(lab, pcihello)
    assert result.returncode == 3
    assert "/nonexistent/qemu of component qemu is missing; restore it: ./provision --tags qemu" in result.stderr
    lab.descriptor("qemu").unlink()
    result = detach(lab, pcihello)
    assert result.returncode == 3
    assert "qemu is not provisioned; run: ./provision --tags qemu" in result.stderr


def test_a_damaged_sidecar_names_the_file(lab: LabPrefix, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    path.write_bytes(bytes(1024))
    Path(f"{path}.rumplab.json").write_text("{", encoding="utf-8")
    result = detach(lab, path)
    assert result.returncode == 1
    assert f"{path}.rumplab.json is not JSON" in result.stderr


def test_debugging_a_foreground_machine_from_elsewhere(lab: LabPrefix, pcihello: Path) -> None:
    child = lab.start("run", pcihello, "--accel", "tcg", "--wait", "--exit-device")
    until(lambda: any(machine["state"] == "prelaunch" for machine in lab.machines()))
    result = lab.tool("debug", "pcihello", "pci_device_found if bus == 1", "--batch", "--ex", "print/x id")
    assert result.returncode == 0, result.stderr
    assert "$1 = 0x100e8086" in result.stdout
    # GDB detaches when it ends, and the machine goes on.
    output, _ = child.communicate(timeout=30)
    assert DONE in output
    assert child.returncode == EXIT_STATUS


def smoke_leftovers(lab: LabPrefix) -> list[Path]:
    return list(Path(lab.environment.get("TMPDIR", "/tmp")).glob("rumplab-*smoke-*"))


def test_smoke(lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    result = lab.tool("smoke", "--record", timeout=150)
    assert result.returncode == 0, result.stderr
    steps = re.findall(r"^ok  (\w+) +[0-9.]+ s  (.+)$", result.stdout, re.MULTILINE)
    assert [step for step, _ in steps] == ["stage", "run", "debug", "done"]
    assert "e1000 01:01.0 8086:100e behind the bridge" in result.stdout.splitlines()[-1]
    assert "verified: yes" in lab.tool("status").stdout
    assert lab.machines() == []
    assert smoke_leftovers(lab) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_smoke_cleans_up_when_it_is_ended(
    lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # A debugger that never ends.
    gdb = tmp_path / "gdb"
    gdb.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    gdb.chmod(0o755)
    lab.component("gdb", {"gdb": str(gdb)})
    child = lab.start("smoke")
    until(lambda: any(machine["state"] == "prelaunch" for machine in lab.machines()))
    machine = lab.machines()[0]
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode == 128 + number
    assert gone(machine)
    assert smoke_leftovers(lab) == []


def test_smoke_is_bounded(lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    gdb = tmp_path / "gdb"
    gdb.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    gdb.chmod(0o755)
    lab.component("gdb", {"gdb": str(gdb)})
    began = time.monotonic()
    result = lab.tool("smoke", "--timeout", "8")
    assert time.monotonic() - began < 40
    assert result.returncode == 1
    assert "debug: 'rumplab debug' did not end in time" in result.stderr
    assert lab.machines() == []
    assert smoke_leftovers(lab) == []


def test_smoke_names_everything_that_is_missing(lab: LabPrefix) -> None:
    lab.descriptor("qemu").unlink()
    lab.component("gdb", {}, state="deferred", reason="no route")
    result = lab.tool("smoke")
    assert result.returncode == 3
    assert "qemu is not provisioned" in result.stderr
    assert "gdb is deferred (no route)" in result.stderr


def test_smoke_fails_when_the_debugger_sees_something_else(lab: LabPrefix, tmp_path: Path) -> None:
    gdb = tmp_path / "gdb"
    gdb.write_text("#!/bin/sh\necho 'rumplab-found 00:02.0 12341111'\n", encoding="utf-8")
    gdb.chmod(0o755)
    lab.component("gdb", {"gdb": str(gdb)})
    result = lab.tool("smoke")
    assert result.returncode == 1
    assert "the debugger reports 00:02.0 12341111, expected 01:01.0 100e8086" in result.stderr
    assert lab.machines() == []
