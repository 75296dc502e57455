"""`rumplab stage --format`: other formats contain the same disk, and are reproducible."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.labfixture import LabPrefix
from support.staging import command, tool_paths
from support.standin import PROGRAM
from unit.commands.test_stage import NASTY, failing_tool, in_small_disk

from rumplab.errors import UsageError
from rumplab.image import vmdk
from rumplab.image.layout import MIB, SECTOR
from rumplab.machine import boot_media

FORMATS = ("qcow2", "vmdk")


@pytest.fixture
def lab(empty_lab: LabPrefix) -> LabPrefix:
    empty_lab.component("rump_stager", tool_paths())
    empty_lab.component("qemu", {"qemu-img": command("qemu-img")})
    return empty_lab


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def qemu_img(*arguments: str | Path) -> str:
    done = subprocess.run(
        [command("qemu-img"), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_contains_the_same_disk(lab: LabPrefix, program: Path, out: Path, kind: str) -> None:
    raw, image, back = out / "a.img", out / f"a.{kind}", out / "back.img"
    assert lab.tool("stage", program, "-o", raw).returncode == 0
    result = lab.tool("stage", program, "-o", image, "--format", kind, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["size"] == raw.stat().st_size
    assert json.loads(result.stdout)["sha256"] == digest(image)
    assert {path.name for path in out.iterdir()} == {
        raw.name,
        f"{raw.name}.rumplab.json",
        image.name,
        f"{image.name}.rumplab.json",
    }
    info = json.loads(qemu_img("info", "--output=json", image))
    assert (info["format"], info["virtual-size"]) == (kind, raw.stat().st_size)
    qemu_img("check", "-f", kind, image)
    qemu_img("convert", "-f", kind, "-O", "raw", image, back)
    assert digest(back) == digest(raw)
    found = boot_media.inspect(str(image))
    assert (found.format, found.program) == (kind, str(program))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_input_gives_the_same_image(
    lab: LabPrefix, program: Path, out: Path, tmp_path: Path, kind: str
) -> None:
    assert lab.tool("stage", program, "-o", out / "a", "--format", kind).returncode == 0
    for number in range(3):
        elsewhere = tmp_path / f"{NASTY}{number}"
        elsewhere.mkdir()
        assert lab.tool("stage", program, "-o", elsewhere / "a", "--format", kind).returncode == 0
        assert digest(elsewhere / "a") == digest(out / "a")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_printed_commands_make_the_same_image(lab: LabPrefix, program: Path, tmp_path: Path, kind: str) -> None:
    directory = tmp_path / NASTY
    directory.mkdir()
    image = directory / "nä me: -x.img"
    arguments: list[str | Path] = ["stage", program, "-o", image, "--format", kind]
    printed = lab.tool(*arguments, "--dry-run")
    assert printed.returncode == 0, printed.stderr
    assert not list(directory.iterdir())
    subprocess.run(["sh"], input=printed.stdout, text=True, capture_output=True, timeout=60, check=True)
    assert [path.name for path in directory.iterdir()] == [image.name]
    by_hand = digest(image)
    assert lab.tool(*arguments, "--force").returncode == 0
    assert digest(image) == by_hand


def test_the_descriptor_names_the_file_and_has_its_full_length(lab: LabPrefix, program: Path, out: Path) -> None:
    image = out / "nä me.vmdk"
    assert lab.tool("stage", program, "-o", image, "--format", "vmdk").returncode == 0
    head = image.read_bytes()[SECTOR : 21 * SECTOR]
    text, rest = head[: vmdk.DESCRIPTOR_BYTES].decode(), head[vmdk.DESCRIPTOR_BYTES :]
    assert not rest.strip(b"\0")
    lines = text.splitlines()
    assert lines[0] == "# Disk DescriptorFile"
    sectors = int(json.loads(qemu_img("info", "--output=json", image))["virtual-size"]) // SECTOR
    assert f'RW {sectors} SPARSE "nä me.vmdk"' in lines
    assert 'ddb.adapterType = "lsilogic"' in lines
    assert f"CID={vmdk.CONTENT_ID}" in lines


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a\udcff"])
def test_a_name_that_a_descriptor_cannot_hold(name: str) -> None:
    with pytest.raises(UsageError, match="can't be a VMDK file's name"):
        vmdk.check_name(name)


@pytest.mark.parametrize("size", [MIB, 2**41 - SECTOR])
def test_a_descriptor_is_as_long_for_any_name_and_size(size: int) -> None:
    for name in ("a", "ü" * 127):
        assert len(vmdk.descriptor(name, size, "streamOptimized").encode()) == vmdk.DESCRIPTOR_BYTES


def test_qemu_img_that_is_not_provisioned(empty_lab: LabPrefix, program: Path, out: Path) -> None:
    empty_lab.component("rump_stager", tool_paths())
    assert empty_lab.tool("stage", program, "-o", out / "a.img").returncode == 0
    for paths in (None, {"qemu-system-x86_64": "/bin/true"}, {"qemu-img": "/nonexistent/qemu-img"}):
        if paths is not None:
            empty_lab.component("qemu", paths)
        result = empty_lab.tool("stage", program, "-o", out / "b", "--format", "qcow2")
        assert result.returncode == 3
        assert "./provision --tags qemu" in result.stderr
    assert not (out / "b").exists()


def test_an_image_that_fails_its_check_is_not_kept(lab: LabPrefix, program: Path, out: Path, tmp_path: Path) -> None:
    real = command("qemu-img")
    text = f'[ "$1" = check ] && {{ echo >&2 "3 errors were found"; exit 2; }}; exec {real} "$@"'
    lab.component("qemu", {"qemu-img": str(failing_tool(tmp_path, text))})
    result = lab.tool("stage", program, "-o", out / "a", "--format", "qcow2")
    assert result.returncode == 1
    assert "3 errors were found" in result.stderr
    assert not list(out.iterdir())


def test_a_disk_that_fills_while_converting(lab: LabPrefix, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    program = tmp_path / "large.bin"
    program.write_bytes(PROGRAM + b"x" * 5 * MIB)
    arguments = ["stage", str(program), "-o", str(disk / "a"), "--format", "qcow2"]
    status, said = in_small_disk(disk, "12m", lab.argv(*arguments), lab.environment)
    assert (status, said.count("\n")) == (1, 1)
    assert "no space left: the image needs 16 MiB" in said
    patched = (
        "import sys; from rumplab.cli import main; from rumplab.image import writer;"
        "writer.check_space = lambda *_: None; sys.exit(main.main(sys.argv[1:]))"
    )
    status, said = in_small_disk(disk, "8m", [sys.executable, "-c", patched, *arguments], lab.environment)
    assert (status, said.count("\n")) == (1, 1)
    assert "no space left: the image needs 16 MiB" in said


def test_only_the_first_of_many_faults_are_shown(lab: LabPrefix, program: Path, out: Path, tmp_path: Path) -> None:
    text = "for i in 1 2 3 4 5 6 7 8 9 10 11; do echo >&2 complaint $i; done; exit 1"
    lab.component("qemu", {"qemu-img": str(failing_tool(tmp_path, text))})
    result = lab.tool("stage", program, "-o", out / "a", "--format", "qcow2")
    assert "complaint 8\n(3 more lines)\n" in result.stderr
