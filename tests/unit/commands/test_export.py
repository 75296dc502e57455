"""`rumplab export`: VMware gets the staged disk, and a debugger finds its files."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.labfixture import LabPrefix, host_tool
from support.staging import command, needs_qemu, tool_paths
from unit.commands.test_stage import failing_tool, in_small_disk
from unit.image.test_multiboot import header, placed

from rumplab.errors import RumplabError
from rumplab.image import disk
from rumplab.image.layout import MIB
from rumplab.image.step import Step
from rumplab.lab import config
from rumplab.machine.registry import open_machines
from rumplab.vmware import directory as layout
from rumplab.vmware import vmx

PROGRAM = placed(header(), 64) + b"content \xff\x00" * 50000
FILES = {"machine.vmx", "disk.vmdk", "program.elf", "README.txt", "rumplab-export.json"}


@pytest.fixture
def lab(empty_lab: LabPrefix) -> LabPrefix:
    empty_lab.component("rump_stager", tool_paths())
    empty_lab.component(
        "qemu", {"qemu-img": command("qemu-img"), "qemu-system-x86_64": host_tool("qemu-system-x86_64")}
    )
    empty_lab.component("gdb", {"gdb": "/bin/echo"})
    return empty_lab


@pytest.fixture
def image(lab: LabPrefix, tmp_path: Path) -> Path:
    program = tmp_path / "hello.bin"
    program.write_bytes(PROGRAM)
    path = tmp_path / "hello.img"
    result = lab.tool("stage", program, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


def export(lab: LabPrefix, image: Path, target: Path, *options: str | Path) -> Path:
    result = lab.tool("export", image, "--vmware", target, *options)
    assert result.returncode == 0, result.stderr
    return target


def settings(target: Path) -> dict[str, str]:
    return vmx.parse((target / "machine.vmx").read_text("utf-8"), "machine.vmx")


def contents(target: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.iterdir()}


def back(source: Path, scratch: Path) -> bytes:
    """Return the content of the disk in a VMDK file."""
    raw = scratch / "back.img"
    argv = [command("qemu-img"), "convert", "-f", "vmdk", "-O", "raw", str(source), str(raw)]
    subprocess.run(argv, capture_output=True, timeout=60, check=True)
    return raw.read_bytes()


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
@pytest.mark.parametrize("source", ["raw", "qcow2", "vmdk"])
def test_the_disk_is_the_image_bit_by_bit(
    lab: LabPrefix, image: Path, tmp_path: Path, subformat: str, source: str
) -> None:
    converted = tmp_path / f"x.{source}"
    argv = [command("qemu-img"), "convert", "-f", "raw", "-O", source, str(image), str(converted)]
    subprocess.run(argv, capture_output=True, timeout=60, check=True)
    target = export(lab, converted, tmp_path / "vm", "--subformat", subformat)
    assert back(target / "disk.vmdk", tmp_path) == image.read_bytes()
    info = json.loads(
        subprocess.run(
            [command("qemu-img"), "info", "--output=json", str(target / "disk.vmdk")],
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
    )
    assert info["format-specific"]["data"]["create-type"] == subformat


def test_everything_is_there_and_the_same_each_time(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = export(lab, image, tmp_path / "one" / "vm")
    assert set(contents(first)) == FILES
    second = export(lab, image, tmp_path / "two" / "vm")
    assert contents(first) == contents(second)
    assert (first / "program.elf").read_bytes() == PROGRAM
    assert stat.S_IMODE(first.stat().st_mode) == 0o777 & ~current_umask()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["vm"]


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_configuration(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    found = settings(export(lab, image, tmp_path / "vm.vmwarevm"))
    assert found["displayname"] == "vm"
    assert found["scsi0.virtualdev"] == "lsilogic"
    assert found["scsi0:0.filename"] == "disk.vmdk"
    assert found["ethernet0.virtualdev"] == "e1000"
    assert (found["serial0.filetype"], found["serial0.filename"]) == ("file", "serial.log")
    assert found["debugstub.listen.guest64"] == "TRUE"
    assert found["debugstub.port.guest64"] == "8864"
    assert found["debugstub.hidebreakpoints"] == "TRUE"
    assert not [key for key in found if key.endswith(".remote")]
    options = ["--adapter", "lsisas1068", "--port", "9000", "--memory", "256", "--serial", "pipe"]
    other = settings(export(lab, image, tmp_path / "other", *options))
    assert other["scsi0.virtualdev"] == "lsisas1068"
    assert other["debugstub.port.guest64"] == "9000"
    assert other["memsize"] == "256"
    assert other["serial0.filetype"] == "pipe"
    assert other["serial0.filename"] == str(tmp_path / "other" / "serial.pipe")
    assert other["serial0.pipe.endpoint"] == "server"


VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"))


@given(VALUES, st.integers(1, 65535), st.sampled_from(vmx.ADAPTERS), st.booleans())
def test_a_configuration_is_read_back(name: str, port: int, adapter: str, pipe: bool) -> None:
    machine = vmx.Machine(name=name, disk=name, serial=name, pipe=pipe, adapter=adapter, port=port)
    wanted = vmx.settings(machine)
    text = vmx.write(wanted)
    assert vmx.parse(text, "x") == {key.lower(): value for key, value in wanted.items()}
    assert text.count("\n") == len(wanted)
    assert vmx.stub_port(vmx.parse(text, "x"), "x") == port


def test_a_configuration_that_vmware_has_rewritten() -> None:
    text = '#!/usr/bin/vmware\n# a comment\n\nDEBUGSTUB.LISTEN.GUEST64 = "true"\r\nname="a|22b"\n'
    found = vmx.parse(text, "x")
    assert found == {"debugstub.listen.guest64": "true", "name": 'a"b'}
    assert vmx.stub_port(found, "x") == vmx.PORT
    with pytest.raises(RumplabError, match=r"line 2 is not valid: debugStub\.port\.guest64"):
        vmx.parse('a = "b"\ndebugStub.port.guest64 8864\n', "x")
    with pytest.raises(RumplabError, match="has no debug stub; add: debugStub"):
        vmx.stub_port({}, "x")
    with pytest.raises(RumplabError, match="is '0'; set it to a port"):
        vmx.stub_port({**found, "debugstub.port.guest64": "0"}, "x")


ALREADY = 'debugStub.listen.guest64 = "TRUE"\ndebugStub.port.guest64 = "9001"\n'


@pytest.mark.parametrize(
    "text",
    [
        ALREADY + 'monitor.debugOnStartGuest64 = "TRUE"   // at once\n',
        ALREADY + 'debugStub.listen.guest64.remote = "TRUE\n',
        ALREADY + 'guestinfo.my-key = "x"\n',
        ALREADY + 'nonsense\n= \n"\n',
        ALREADY.replace('"TRUE"', '"1"'),
        ALREADY.replace('"TRUE"', "yes # on"),
        ALREADY.replace('"TRUE"', '"TRUE   '),
        ALREADY.replace('"9001"', "9001"),
        ALREADY.replace("\n", "\r\n"),
        "\ufeff" + ALREADY,
        'displayName = "a\u2028b\x0cc\x85"\n' + ALREADY,
        'displayName = "caf\udce9"\n' + ALREADY,
    ],
)
def test_a_configuration_that_people_have_edited(text: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.vmx"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert vmx.stub_port(vmx.read(path), "x") == 9001


def test_readme_has_the_command_that_works(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    text = (export(lab, image, tmp_path / "vm", "--port", "9001") / "README.txt").read_text()
    command_line = text[text.index("  gdb ") :].split("\n\n")[0]
    argv = shlex.split(command_line.replace("\\\n", ""))
    assert argv == [
        "gdb",
        "-ex",
        "set architecture i386:x86-64",
        "-ex",
        "file program.elf",
        "-ex",
        "target remote 127.0.0.1:9001",
    ]
    assert "rumplab debug --vmware ." in text


def test_without_a_program_there_is_a_warning(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    program = tmp_path / "hello.bin"
    cases: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: program.write_bytes(b"changed"), "has changed since it was staged"),
        (program.unlink, "is gone, so there will be no symbols"),
        ((tmp_path / "hello.img.rumplab.json").unlink, "has no program on record"),
    )
    for number, (spoil, message) in enumerate(cases):
        spoil()
        target = tmp_path / f"vm{number}"
        result = lab.tool("export", image, "--vmware", target)
        assert result.returncode == 0, result.stderr
        assert message in result.stderr
        assert set(contents(target)) == FILES - {"program.elf"}
        assert "program.elf" not in (target / "README.txt").read_text().split("This directory has no")[0]
        assert layout.open_export(target).program is None


def test_force_replaces_an_export_and_nothing_else(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    target = tmp_path / "vm"
    target.mkdir()
    export(lab, image, target)
    before = contents(target)
    result = lab.tool("export", image, "--vmware", target, "--port", "9000")
    assert result.returncode == 1
    assert f"{target} exists; replace it with --force" in result.stderr
    assert contents(target) == before
    (target / "machine.vmx.lck").mkdir()
    result = lab.tool("export", image, "--vmware", target, "--port", "9000", "--force")
    assert result.returncode == 1
    assert "is in use: VMware left machine.vmx.lck there" in result.stderr
    (target / "machine.vmx.lck").rmdir()
    (target / "vmware.log").touch()
    export(lab, image, target, "--port", "9000", "--force")
    assert set(contents(target)) == FILES
    assert settings(target)["debugstub.port.guest64"] == "9000"
    own = tmp_path / "own"
    own.mkdir()
    (own / "letter").write_text("keep me")
    (tmp_path / "link").symlink_to(target)
    for place, message in (
        (own, "holds files that no export made"),
        (tmp_path / "link", "exists and is not a directory"),
        (image, "exists and is not a directory"),
        (tmp_path / "none" / "vm", "is not a directory; create it"),
    ):
        result = lab.tool("export", image, "--vmware", place, "--force")
        assert result.returncode == 1
        assert message in result.stderr
    result = lab.tool("export", target / "disk.vmdk", "--vmware", target, "--force")
    assert result.returncode == 1
    assert "which the export would replace" in result.stderr
    assert (own / "letter").read_text() == "keep me"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{tmp}/hello.bin", "--vmware", "{tmp}/vm"], 2, "is a program; make an image of it first"),
        (["{tmp}/none", "--vmware", "{tmp}/vm"], 1, "cannot read {tmp}/none"),
        (["{tmp}/hello.img"], 2, "--vmware"),
        (["{tmp}/hello.img", "--vmware", "{tmp}/vm", "--port", "80"], 2, "'80' is not a port"),
        (["{tmp}/hello.img", "--vmware", "{tmp}/vm", "--adapter", "buslogic"], 2, "invalid choice"),
        (["{tmp}/hello.img", "--vmware", "{tmp}/vm", "--memory", "3"], 2, "a multiple of 4"),
        (
            ["{tmp}/hello.img", "--vmware", "{tmp}/" + "v" * 120, "--serial", "pipe"],
            2,
            "choose a shorter DIR",
        ),
        (["{tmp}/bad.qcow2", "--vmware", "{tmp}/vm"], 1, "qemu-img failed: "),
    ],
)
def test_refusals_leave_nothing(
    lab: LabPrefix, image: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "bad.qcow2").write_bytes(b"QFI\xfb" + bytes(600))
    before = sorted(tmp_path.iterdir())
    result = lab.tool("export", *[argument.format(tmp=tmp_path) for argument in arguments])
    assert result.returncode == status
    assert message.format(tmp=tmp_path) in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_what_a_guest_wrote_into_its_disk_and_what_an_image_names_reach_no_other_file(
    lab: LabPrefix, image: Path, tmp_path: Path
) -> None:
    secret, evil = tmp_path / "secret", tmp_path / "evil.qcow2"
    secret.write_bytes(b"a secret" * (MIB // 8))
    command_line = [command("qemu-img"), "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(evil), "1M"]
    subprocess.run(command_line, check=True)
    refused = lab.tool("export", evil, "--vmware", tmp_path / "refused")
    assert refused.returncode == 1
    assert f"{evil} has the backing file {str(secret)!r}" in refused.stderr
    assert not (tmp_path / "refused").exists()
    allowed = export(lab, evil, tmp_path / "allowed", "--allow-backing")
    assert back(allowed / "disk.vmdk", tmp_path).startswith(b"a secret")
    # The record of the staged image says raw.
    with image.open("r+b") as stream:
        stream.write(evil.read_bytes())
    assert back(export(lab, image, tmp_path / "raw") / "disk.vmdk", tmp_path).startswith(b"QFI\xfb")


def test_qemu_img_that_is_not_provisioned(empty_lab: LabPrefix, tmp_path: Path) -> None:
    result = empty_lab.tool("export", "x", "--vmware", tmp_path / "vm")
    assert result.returncode == 3
    assert "./provision --tags qemu" in result.stderr


def test_a_disk_that_fails_its_check_is_not_kept(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    real = command("qemu-img")
    text = f'[ "$1" = check ] && {{ echo >&2 "3 errors were found"; exit 2; }}; exec {real} "$@"'
    lab.component("qemu", {"qemu-img": str(failing_tool(tmp_path, text))})
    before = sorted(tmp_path.iterdir())
    result = lab.tool("export", image, "--vmware", tmp_path / "vm")
    assert result.returncode == 1
    assert "3 errors were found" in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    with image.open("r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(2 * MIB))
    argv = lab.argv("export", image, "--vmware", place / "vm")
    status, said = in_small_disk(place, "1m", argv, lab.environment)
    assert status == 1
    assert said == (
        f"rumplab export: no space left in {place}, which has 0 MiB free; free some space or choose another directory\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interruption_leaves_nothing(lab: LabPrefix, image: Path, tmp_path: Path, number: int) -> None:
    marker, real = tmp_path / "started", command("qemu-img")
    text = f'[ "$1" = convert ] && {{ touch {marker}; exec sleep 60; }}; exec {real} "$@"'
    lab.component("qemu", {"qemu-img": str(failing_tool(tmp_path, text))})
    place = tmp_path / "place"
    place.mkdir()
    process = lab.start("export", image, "--vmware", place / "vm")
    deadline = time.monotonic() + 20
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(place.iterdir())
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert not list(place.iterdir())


@needs_qemu
@pytest.mark.qemu
def test_an_image_in_use_is_refused_with_the_name_of_its_machine(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.img"
    link.symlink_to(image)
    started = lab.tool("run", image, "--wait", "--detach", "--accel", "tcg", "--name", "holder")
    assert started.returncode == 0, started.stderr
    result = lab.tool("export", link, "--vmware", tmp_path / "vm")
    assert result.returncode == 1
    assert "is in use by machine 'holder'" in result.stderr
    assert "rumplab stop holder" in result.stderr
    assert not (tmp_path / "vm").exists()
    assert lab.tool("stop", "holder").returncode == 0
    export(lab, image, tmp_path / "vm")


def test_an_image_in_use_by_another_process(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    nbd = command("qemu-nbd")
    path = tmp_path / "nbd"
    with subprocess.Popen([nbd, "-f", "raw", "-t", "-k", str(path), str(image)]) as server:
        try:
            wait_for(path)
            result = lab.tool("export", image, "--vmware", tmp_path / "vm")
        finally:
            server.terminate()
    assert result.returncode == 1
    assert f"{image} is in use by a process that is not one of your machines" in result.stderr


def wait_for(path: Path) -> None:
    """Return when the UNIX socket `path` accepts connections."""
    deadline = time.monotonic() + 20
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_a_step_that_hangs_is_given_up(tmp_path: Path, lab: LabPrefix) -> None:
    machines = open_machines(config.load())
    with pytest.raises(RumplabError, match="took more than 0 s and was stopped"):
        disk.run(Step(("/bin/sleep", "60")), tmp_path, 0.2, "x", machines)


def executed(printed: str) -> list[str]:
    argv = shlex.split(printed)
    return [argv[at + 1] for at, word in enumerate(argv) if word == "-ex"]


def test_debug_attaches_to_an_export(lab: LabPrefix, image: Path, tmp_path: Path) -> None:
    target = export(lab, image, tmp_path / "vm", "--port", "9002")
    result = lab.tool("debug", "--vmware", target, "main", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert f'file "{target / "program.elf"}"' in executed(result.stdout)
    assert [one for one in executed(result.stdout) if one.startswith(("target", "hbreak", "continue"))] == [
        "target remote 127.0.0.1:9002",
        "hbreak main",
        "continue",
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    text = (target / "machine.vmx").read_text()
    (target / "machine.vmx").write_text(text.replace('"9002"', f'"{free}"'))
    result = lab.tool("debug", "--vmware", target, "--dry-run")
    assert f"target remote 127.0.0.1:{free}" in executed(result.stdout)
    for arguments, status, message in (
        (("name", "main", "--vmware", target), 2, "with --vmware there is no NAME; leave out 'name'"),
        (("--vmware", tmp_path), 1, "is not an export; make one with: rumplab export"),
        (("--vmware", target), 1, f"nothing listens on 127.0.0.1:{free}, where VMware has the debug stub"),
    ):
        result = lab.tool("debug", *arguments)
        assert result.returncode == status
        assert message in result.stderr


@needs_qemu
@pytest.mark.qemu
def test_a_session_with_qemus_stub_in_vmwares_place(lab_prefix: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    """QEMU boots the exported disk; `debug --vmware` needs the stub and the export's symbols only."""
    lab_prefix.component("qemu", {"qemu-img": command("qemu-img")})
    program, image, target = tmp_path / "p.bin", tmp_path / "p.img", tmp_path / "vm"
    program.write_bytes(pcihello.read_bytes())
    assert lab_prefix.tool("stage", program, "-o", image).returncode == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    export(lab_prefix, image, target, "--port", str(port))
    program.unlink()
    image.unlink()
    argv = [host_tool("qemu-system-x86_64"), "-accel", "tcg", "-m", "128", "-display", "none", "-nic", "none"]
    argv += ["-S", "-gdb", f"tcp:127.0.0.1:{port}"]
    argv += ["-drive", f"file={target / 'disk.vmdk'},format=vmdk,if=none,id=disk0"]
    argv += ["-device", "ide-hd,drive=disk0", "-serial", f"file:{tmp_path / 'serial.log'}"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as machine:
        try:
            connect(port)
            arguments = ["--batch", "--ex", "info symbol $pc", "--ex", "kill"]
            result = lab_prefix.tool("debug", "--vmware", target, "pci_device_found", *arguments)
        finally:
            machine.terminate()
    assert "pci_device_found" in result.stdout, result.stdout + result.stderr
    assert "Breakpoint 1, pci_device_found" in result.stdout


def connect(port: int) -> None:
    """Return when the stub listens; don't connect, since it accepts only one debugger."""
    deadline = time.monotonic() + 20
    listening = f":{port:04X} 00000000:0000 0A"
    while listening not in Path("/proc/net/tcp").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_verb_is_loaded_alone() -> None:
    """Export needs no PyYAML, and stage needs it only with --rumprun."""
    verbs = ", ".join(f"rumplab.commands.{verb}" for verb in ("export", "stage", "debug"))
    code = f"import sys; sys.modules['yaml'] = None; import {verbs}"
    subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(disk.__file__).parents[2])},
        timeout=20,
        check=True,
    )
