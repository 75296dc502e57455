"""`rumplab stage --volume`: directories become partitions, reproducibly, whatever files they contain."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.labfixture import LabPrefix
from support.staging import command, needs_qemu, tool_paths

from rumplab.errors import RumplabError, UsageError
from rumplab.image import layout, volume
from rumplab.image.layout import BLOCK, MIB

ODD_NAMES = ("two words", 'quo"te', "<2>", "-x", "ü", "back\\slash", "#no", "!no", "a'b", "$x", "a;b", "*")


@pytest.fixture
def lab(empty_lab: LabPrefix) -> LabPrefix:
    empty_lab.component("rump_stager", tool_paths())
    return empty_lab


def tree(top: Path) -> Path:
    """Make a directory with every kind of file that a volume may contain."""
    (top / "sub" / "deeper").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "lost+found").mkdir()
    (top / "lost+found" / "not this").write_text("x")
    for name in ODD_NAMES:
        (top / name).write_text(name)
        (top / "sub" / name).mkdir()
        (top / "sub" / name / "file").write_text(f"in {name}")
    (top / "sub" / "run").write_text("#!/bin/sh\n")
    (top / "sub" / "run").chmod(0o750)
    (top / "sub" / "large").write_bytes(os.urandom(3 * MIB + 5))
    (top / "zero").write_bytes(b"")
    # debugfs is in another directory when it makes these.
    (top / "z1" / "z").mkdir(parents=True)
    (top / "z1" / "file").touch()
    (top / "z2").mkdir()
    (top / "z3").symlink_to("z2")
    (top / "link").symlink_to("sub/run")
    (top / 'a "far" link').symlink_to("/no where/" + "x" * 200)
    return top


def partitions(image: Path) -> list[tuple[int, int]]:
    """Return the start and size, in bytes, of each partition in sfdisk's output."""
    done = subprocess.run(
        [tool_paths()["sfdisk"], "--json", str(image)], capture_output=True, text=True, timeout=30, check=True
    )
    table = json.loads(done.stdout)["partitiontable"]["partitions"]
    return [(part["start"] * 512, part["size"] * 512) for part in table]


def extract(image: Path, number: int, directory: Path) -> Path:
    """Copy partition `number` (from 1) to a file of its own, and check that with e2fsck."""
    start, size = partitions(image)[number - 1]
    path = directory / f"part{number}"
    with image.open("rb") as file:
        file.seek(start)
        path.write_bytes(file.read(size))
    checked = subprocess.run(
        [command("e2fsck"), "-fn", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return path


def debugfs(part: Path, request: str) -> str:
    done = subprocess.run(
        [tool_paths()["debugfs"], "-R", request, str(part)], capture_output=True, text=True, timeout=60
    )
    return done.stdout


def label(part: Path) -> str:
    found = re.search(r"Filesystem volume name: +(\S+)", debugfs(part, "stats -h"))
    assert found
    return found[1]


def dump(part: Path, directory: Path) -> Path:
    """Write the partition's files to `directory` with debugfs."""
    directory.mkdir()
    debugfs(part, f'rdump / "{directory}"')
    return directory


def listing(top: Path) -> dict[str, tuple[str, str]]:
    """Map the path of each file below `top`, except lost+found, to its kind and content."""
    found = {}
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        if name.split("/")[0] == "lost+found":
            continue
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("directory", "")
        else:
            executable = "executable" if path.stat().st_mode & 0o100 else "file"
            found[name] = (executable, hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def test_a_volume_holds_the_directory(lab: LabPrefix, program: Path, tmp_path: Path) -> None:
    source, image = tree(tmp_path / "source"), tmp_path / "a.img"
    other = tmp_path / "other"
    other.mkdir()
    result = lab.tool("stage", program, "-o", image, "--volume", f"{source}:www", "--volume", other)
    assert result.returncode == 0, result.stderr
    assert len(partitions(image)) == 3
    assert label(extract(image, 1, tmp_path)) == "boot"
    part = extract(image, 2, tmp_path)
    assert label(part) == "www"
    assert listing(dump(part, tmp_path / "dumped")) == listing(source)
    assert label(extract(image, 3, tmp_path)) == "data2"
    assert not listing(dump(tmp_path / "part3", tmp_path / "dumped3"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")
def test_everything_belongs_to_root_at_one_time(lab: LabPrefix, program: Path, tmp_path: Path) -> None:
    source, image = tree(tmp_path / "source"), tmp_path / "a.img"
    for path in (source, *source.rglob("*")):
        os.chown(path, 1234, 1234, follow_symlinks=False)
    assert lab.tool("stage", program, "-o", image, "--volume", source).returncode == 0
    part = extract(image, 2, tmp_path)
    for place in ("/", "/sub", "/sub/run", "/link", "/zero", "/sub/large"):
        stat = debugfs(part, f"stat {place}")
        assert re.search(r"User: +0 +Group: +0 ", stat), stat
        times = re.findall(r"[acm]time: 0x([0-9a-f]+)", stat)
        assert len(times) == 3 and {int(time, 16) for time in times} == {946684800}, stat
    assert "Mode:  0755" in debugfs(part, "stat /sub/run")
    assert "Mode:  0644" in debugfs(part, "stat /zero")


def test_the_same_content_gives_the_same_image(lab: LabPrefix, program: Path, tmp_path: Path) -> None:
    """The second directory was made elsewhere, in another order, with other times and modes, and is staged later."""
    first = tree(tmp_path / "first")
    assert lab.tool("stage", program, "-o", tmp_path / "a.img", "--volume", first).returncode == 0
    second = tmp_path / "an other"
    second.mkdir()
    for path in sorted(first.rglob("*"), key=lambda path: (len(path.parts), str(path)[::-1])):
        copy = second / path.relative_to(first)
        if path.is_symlink():
            copy.symlink_to(os.readlink(path))
        elif path.is_dir():
            copy.mkdir(mode=0o700)
        else:
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o500 if path.stat().st_mode & 0o100 else 0o400)
            os.utime(copy, (5, 5))
    assert lab.tool("stage", program, "-o", tmp_path / "b.img", "--volume", second).returncode == 0
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
    (second / "zero").write_text("changed")
    assert lab.tool("stage", program, "-o", tmp_path / "c.img", "--volume", second).returncode == 0
    assert (tmp_path / "a.img").read_bytes() != (tmp_path / "c.img").read_bytes()


def test_the_printed_commands_make_the_same_image(lab: LabPrefix, program: Path, tmp_path: Path) -> None:
    source, image = tree(tmp_path / "so u'rce"), tmp_path / "a.img"
    arguments: list[str | Path] = ["stage", program, "-o", image, "--volume", source, "--size", "32"]
    printed = lab.tool(*arguments, "--dry-run")
    assert printed.returncode == 0, printed.stderr
    subprocess.run(["sh"], input=printed.stdout, text=True, capture_output=True, timeout=60, check=True)
    by_hand = image.read_bytes()
    assert lab.tool(*arguments, "--force").returncode == 0
    assert image.read_bytes() == by_hand
    assert len(by_hand) == 32 * MIB


def test_the_last_volume_gets_the_remaining_space(lab: LabPrefix, program: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    arguments: list[str | Path] = [
        "stage",
        program,
        "--volume",
        tmp_path / "x",
        "--volume",
        f"{tmp_path / 'x'}:y",
    ]
    assert lab.tool(*arguments, "-o", tmp_path / "a.img").returncode == 0
    assert lab.tool(*arguments, "-o", tmp_path / "b.img", "--size", "100").returncode == 0
    small, large = partitions(tmp_path / "a.img"), partitions(tmp_path / "b.img")
    assert small[:2] == large[:2]
    assert sum(large[2]) == 100 * MIB
    extract(tmp_path / "b.img", 3, tmp_path)
    refused = lab.tool(*arguments, "-o", tmp_path / "c.img", "--size", "4")
    assert refused.returncode == 1
    assert "the program with its volumes is larger than the image: it needs" in refused.stderr


@pytest.mark.parametrize("files", [0, 700, 5000])
def test_the_computed_size_holds_many_files(lab: LabPrefix, program: Path, tmp_path: Path, files: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(files):
        (source / f"{number:05}-{'x' * 100}").write_bytes(b"x" * (number % 3 * BLOCK))
    image = tmp_path / "a.img"
    result = lab.tool("stage", program, "-o", image, "--volume", source)
    assert result.returncode == 0, result.stderr
    assert len(listing(dump(extract(image, 2, tmp_path), tmp_path / "dumped"))) == files


@given(st.lists(st.integers(0, 2**33), max_size=5), st.integers(0, 10**6))
def test_a_volume_is_larger_than_its_content(sizes: list[int], entries: int) -> None:
    size = layout.volume_size(sizes, entries)
    inodes = layout.volume_inodes(entries)
    total = sum(sizes)
    assert size % MIB == 0
    assert size >= total + inodes * layout.INODE + MIB
    groups = -(-size // (layout.BLOCKS_PER_GROUP * BLOCK))
    assert inodes <= groups * layout.INODES_PER_GROUP
    # A block group takes 128 MiB of a sparse file.
    room = 0 if inodes < 32000 else (inodes // 32000 + 1) * 128 * MIB
    assert size <= total * 1.25 + inodes * 1024 + 8 * MIB + room


def test_a_fifo_and_a_control_character_are_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RumplabError, match="pipe is not a file, directory or link"):
        volume.read(tmp_path, "data")
    (tmp_path / "pipe").unlink()
    (tmp_path / "a\nb").touch()
    with pytest.raises(RumplabError, match=r"a\\nb': a name in an image"):
        volume.read(tmp_path, "data")
    (tmp_path / "a\nb").unlink()
    (tmp_path / "l").symlink_to("a\nb")
    with pytest.raises(RumplabError, match="a link's target in an image can't contain a line break"):
        volume.read(tmp_path, "data")
    (tmp_path / "l").unlink()
    (tmp_path / "l").symlink_to('"' * 4000)
    with pytest.raises(RumplabError, match="too long for the image"):
        volume.read(tmp_path, "data")


def test_directories_and_labels(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert volume.parse(f"{tmp_path}/a:b", 1) == (tmp_path / "a:b", "data1")
    assert volume.parse("x:www", 2) == (Path("x"), "www")
    assert volume.parse("x", 3) == (Path("x"), "data3")
    for bad in ("x:", "x:a b", "x:boot", "x:" + "l" * 17):
        with pytest.raises(UsageError, match="is not a valid label"):
            volume.parse(bad, 1)
    with pytest.raises(UsageError, match="at most 3 volumes"):
        volume.read_all([str(tmp_path)] * 4)
    with pytest.raises(UsageError, match="two volumes have the label 'data2'"):
        volume.read_all([f"{tmp_path}:data2", str(tmp_path)])
    with pytest.raises(RumplabError, match=r"cannot read .*/none"):
        volume.read_all([str(tmp_path / "none")])


@needs_qemu
@pytest.mark.qemu
def test_an_image_with_volumes_boots_in_qcow2(lab_prefix: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    lab_prefix.component("qemu", {"qemu-system-x86_64": command("qemu-system-x86_64"), "qemu-img": command("qemu-img")})
    image = tmp_path / "a.qcow2"
    arguments: list[str | Path] = ["--volume", tree(tmp_path / "source"), "--format", "qcow2"]
    result = lab_prefix.tool("stage", pcihello, "-o", image, *arguments)
    assert result.returncode == 0, result.stderr
    result = lab_prefix.tool("run", image, "--accel", "tcg", "--exit-device")
    assert "pcihello: done" in result.stdout
