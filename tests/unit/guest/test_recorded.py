"""Recorded guests: examples/kgdb and examples/ipkdb in QEMU, from start to replay."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.labfixture import LabPrefix, host_tool
from support.recordings import newest
from support.running import until
from support.staging import EXAMPLES, IPKDB_EXAMPLE, build, command, needs_compiler, needs_qemu

from rumplab.commands.guest import stop
from rumplab.machine import qmp, registry
from rumplab.recording import log

pytestmark = [pytest.mark.qemu, needs_qemu, needs_compiler]

one_architecture = pytest.mark.parametrize("kgdb_kernel", ["amd64"], indirect=True)
SECONDS = 120


@pytest.fixture
def nb(lab: LabPrefix, kgdb_kernel: tuple[str, Path]) -> Iterator[LabPrefix]:
    """A guest `nb` of examples/kgdb, not started."""
    lab.component("qemu", {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")})
    architecture, kernel = kgdb_kernel
    guest(lab, "create", "nb", "--arch", architecture, "--kernel", kernel)
    yield lab
    lab.tool("guest", "stop", "--all", "--now")


def guest(lab: LabPrefix, *words: str | Path) -> str:
    """Return the output of `rumplab guest WORDS`, which must succeed."""
    result = lab.tool("guest", *words, timeout=SECONDS)
    assert result.returncode == 0, f"{result.stderr}\nthe console:\n{lab.tool('logs', 'nb').stdout[-3000:]!r}"
    return result.stdout + result.stderr


def refused(lab: LabPrefix, *words: str | Path, status: int = 1) -> str:
    result = lab.tool("guest", *words, timeout=SECONDS)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stderr


def boot(lab: LabPrefix) -> None:
    until(lambda: "login: " in lab.tool("logs", "nb").stdout)


def run_for(lab: LabPrefix, instructions: int) -> None:
    """Wait until the guest has executed so many more: on an idle host, its first clock tick comes after the login
    prompt."""
    (machine,) = lab.machines()
    control = Path(machine["directory"], registry.SOCKET)

    def executed() -> int:
        return int(qmp.execute(control, "query-replay")["icount"])

    wanted = executed() + instructions
    until(lambda: executed() >= wanted)


def typed(lab: LabPrefix, text: str) -> None:
    argv = lab.argv("guest", "console", "nb")
    subprocess.run(argv, env=lab.environment, input=text.encode(), timeout=SECONDS, check=True, capture_output=True)


def replayed(lab: LabPrefix, name: str = "nb") -> str:
    result = lab.tool("replay", name, "--check", timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_guest_is_recorded_with_all_that_was_typed(nb: LabPrefix) -> None:
    said = guest(nb, "start", "nb", "--record")
    assert "its card is a virtio instead of an e1000" in said
    assert "the recording goes on; show it with: rumplab recording show nb" in said
    boot(nb)
    typed(nb, "root\n")
    typed(nb, "echo words\n")
    assert guest(nb, "stop", "nb") == "nb stopped\n"
    printed = replayed(nb)
    assert printed.count("words") == 2
    assert "system going down: power off" in printed
    found = newest(nb)
    assert (found.hardware.ports, [card.model for card in found.hardware.cards]) == (2, ["virtio"])


@one_architecture
def test_a_recorded_guest_is_debugged_backwards(nb: LabPrefix) -> None:
    guest(nb, "start", "nb", "--record")
    boot(nb)
    # Some ticks; each calls counter_step.
    run_for(nb, 1000)
    guest(nb, "stop", "nb", "--now")
    words = ["rr-goto end", "break counter_step", "reverse-continue", "print counter", "reverse-stepi", "rr-where"]
    result = nb.tool("debug", "nb", "--replay", "--batch", *(part for word in words for part in ("--ex", word)))
    assert re.search(r"^Breakpoint 1, counter_step", result.stdout, re.MULTILINE), result.stdout + result.stderr
    assert re.search(r"^\$1 = [0-9]+", result.stdout, re.MULTILINE)
    assert re.search(r"^instruction \d+ of \d+", result.stderr, re.MULTILINE)


@one_architecture
def test_a_serial_line_to_the_kernels_debugger_is_refused(nb: LabPrefix) -> None:
    """QEMU records no BREAK, and the serial port loses GDB's packets, which come at once."""
    said = refused(nb, "start", "nb", "--record", "--kgdb", status=2)
    assert "leave out --kgdb, and debug the recording with: rumplab debug NAME --replay" in said
    assert "debug it with: rumplab guest debug nb --qemu-stub" in guest(nb, "start", "nb", "--record")
    boot(nb)
    for words in (("break", "nb"), ("debug", "nb", "--break", "--batch"), ("debug", "nb", "--batch")):
        assert "nb is being recorded, and QEMU can't record a session on a serial line" in refused(nb, *words)
    assert "workload" in guest(nb, "debug", "nb", "--qemu-stub", "--batch", "--ex", "bt")
    typed(nb, "root\n")
    # More than the serial port takes at once.
    typed(nb, f"echo {'x' * 60}\n")
    guest(nb, "stop", "nb")
    assert replayed(nb).count("x" * 60) == 2


@one_architecture
def test_a_guest_without_a_shell_ends_without_the_power_button(nb: LabPrefix, pcihello: Path) -> None:
    """QEMU doesn't record the button: the replay would hang where the guest was told of it."""
    guest(nb, "create", "mute", "--kernel", pcihello)
    guest(nb, "start", "mute", "--record")
    # Its console is the screen, so that nothing is on the serial port.
    until(lambda: "done" in nb.tool("screen", "mute").stdout)
    assert stop.NO_BUTTON in guest(nb, "stop", "mute", "--timeout", "0.5")
    assert replayed(nb, "mute") == ""


@one_architecture
def test_the_recording_has_a_copy_of_the_guests_disk(nb: LabPrefix, tmp_path: Path) -> None:
    disk = tmp_path / "root.img"
    disk.write_bytes(bytes(1 << 20))
    kernel = json.loads(nb.tool("guest", "list", "--json").stdout)[0]["kernel"]
    guest(nb, "create", "disk", "--kernel", kernel, "--disk", disk, "--root", "wd0a")
    guest(nb, "start", "disk", "--record")
    until(lambda: "login: " in nb.tool("logs", "disk").stdout)
    guest(nb, "stop", "disk", "--now")
    disk.unlink()
    replayed(nb, "disk")
    found = newest(nb)
    assert [(drive.format, drive.controller) for drive in found.hardware.disks] == [("raw", "ide")]
    assert (found.directory / "disk0").read_bytes() == bytes(1 << 20)


@one_architecture
def test_what_cannot_be_recorded_is_refused_by_name(nb: LabPrefix, tmp_path: Path) -> None:
    for words, why in (
        (["--accel", "kvm"], "--record counts instructions, which --accel kvm can't"),
        (["--on-panic", "dump"], "--record and --on-panic can't be used together"),
        (["--persist"], "leave out --persist"),
        (["--", "-smp", "2"], "a recording has one CPU"),
    ):
        assert why in refused(nb, "start", "nb", "--record", *words, status=2)
    kernel = json.loads(nb.tool("guest", "list", "--json").stdout)[0]["kernel"]
    backed, base = tmp_path / "d.qcow2", tmp_path / "base"
    base.write_bytes(bytes(1 << 20))
    subprocess.run(
        [command("qemu-img"), "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(backed)],
        check=True,
        timeout=60,
    )
    guest(nb, "create", "two", "--kernel", kernel, "--disk", backed, "--allow-backing")
    said = refused(nb, "start", "two", "--record", status=2)
    assert f"{backed} has the backing file" in said and "make one file of it: qemu-img convert" in said
    guest(nb, "create", "kept", "--kernel", kernel, "--disk", base)
    guest(nb, "start", "kept", "--persist")
    guest(nb, "stop", "kept", "--now")
    said = refused(nb, "start", "kept", "--record", status=2)
    assert "which --persist has kept, is only a part of one" in said
    assert json.loads(nb.tool("recording", "ls", "--json").stdout) == []
    assert nb.machines() == []


@one_architecture
def test_the_printed_commands_record_a_guest(nb: LabPrefix, tmp_path: Path) -> None:
    result = nb.tool("guest", "start", "nb", "--record", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert all(shlex.split(line) for line in result.stdout.splitlines())
    script = f"{result.stdout.rstrip()} & sleep 8; kill $!; wait $! || true"
    subprocess.run(["/bin/sh", "-ec", script], cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=60, check=False)
    found = log.read(tmp_path / "nb.recording" / "log")
    assert found.ended and found.instructions > 1000000


def test_a_session_over_ethernet_is_recorded(lab: LabPrefix, tmp_path: Path, key_file: Path) -> None:
    """The packets of IPKDB are input of a network card, which keeps its model: the kernel has a driver for no other."""
    lab.component("qemu", {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")})
    kernel = build(IPKDB_EXAMPLE, tmp_path / "ipkdb.bin")
    guest(lab, "create", "e", "--arch", "i386", "--kernel", kernel, "--sources", f"/usr/src={EXAMPLES}")
    # The key is a boot module, so that no command line of the kernel contains it.
    (definition,) = lab.runtime.glob("*/guests/e/guest.json")
    definition.write_text(json.dumps({**json.loads(definition.read_text()), "initrd": str(key_file)}))
    guest(lab, "start", "e", "--ipkdb", "--record")
    words = ["--batch", "--ex", "set var counter = 4711", "--ex", "delete", "--ex", "detach"]
    assert "counter_step" in guest(lab, "debug", "e", "counter_step", "--key-file", key_file, *words)
    until(lambda: "running" in lab.tool("logs", "e").stdout)
    guest(lab, "stop", "e", "--now")
    assert "running" in replayed(lab, "e")
    assert [card.model for card in newest(lab).hardware.cards] == ["virtio", "ne2k_pci"]
    result = lab.tool("debug", "e", "--replay", "--batch", "--ex", "rr-goto end", "--ex", "print counter > 4710")
    assert "$1 = 1" in result.stdout, result.stdout + result.stderr
