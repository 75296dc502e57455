"""The overlay with a guest's writes, over a base that must not change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.labfixture import host_tool

from rumplab.errors import RumplabError
from rumplab.guest import definition, overlay
from rumplab.host import files
from rumplab.machine.registry import Machines

MIB = 1 << 20


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base, ü.img"
    path.write_bytes(b"base" * (MIB // 4))
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "nb"
    path.mkdir()
    return path


def provide(directory: Path, base: Path) -> Path:
    return overlay.provide(host_tool("qemu-img"), directory, str(base), "raw", Machines(directory))


def test_the_overlay_stands_over_its_base(directory: Path, base: Path) -> None:
    made = provide(directory, base)
    said = subprocess.run(
        [host_tool("qemu-img"), "info", "--output=json", made], capture_output=True, timeout=30, check=True
    )
    about = json.loads(said.stdout)
    assert (about["format"], about["virtual-size"], about["backing-filename"]) == ("qcow2", MIB, str(base))
    before = made.stat().st_mtime_ns
    assert provide(directory, base) == made
    assert made.stat().st_mtime_ns == before
    assert sorted(path.name for path in directory.iterdir()) == [overlay.RECORD, definition.DISK]


def test_a_base_that_changed_is_refused(directory: Path, base: Path) -> None:
    provide(directory, base)
    with base.open("r+b") as handle:
        handle.write(b"else")
    with pytest.raises(RumplabError, match=r"has changed since .*; restore the old one, or .*guest delete nb"):
        provide(directory, base)


def test_a_base_of_another_size_is_refused(directory: Path, base: Path) -> None:
    provide(directory, base)
    os.truncate(base, MIB // 2)
    with pytest.raises(RumplabError, match="has changed since"):
        provide(directory, base)


def test_the_same_content_at_another_time_will_do(directory: Path, base: Path) -> None:
    made = provide(directory, base)
    copy = shutil.copy(base, base.with_name("copy"))
    base.unlink()
    os.rename(copy, base)
    assert provide(directory, base) == made


def test_another_base_is_refused(directory: Path, base: Path) -> None:
    provide(directory, base)
    other = Path(shutil.copy(base, base.with_name("other.img")))
    with pytest.raises(RumplabError, match=r"was made over .*base.*and the guest's disk is now .*other"):
        provide(directory, other)


def test_an_unfinished_overlay_is_made_again(directory: Path, base: Path) -> None:
    (directory / f".{definition.DISK}").write_bytes(b"half")
    (directory / overlay.RECORD).write_text("{")
    assert provide(directory, base).read_bytes()[:4] == b"QFI\xfb"


def test_a_base_that_is_not_an_image_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(RumplabError, match="qemu-img failed"):
        provide(directory, tmp_path / "absent.img")
    assert not definition.keeps_disk(directory)


def test_a_full_disk_is_reported_before_anything_is_written(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    with pytest.raises(RumplabError, match=r"no space left in .*: the kernel takes \d+ MiB, and \d+ MiB are free"):
        files.require_space(directory, free + 1024 * MIB, "the kernel")
    files.require_space(directory, 1, "the kernel")
