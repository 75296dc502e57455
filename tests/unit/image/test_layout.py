"""Sizes: parsing them, and that an image of the computed size holds its files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.staging import tool_paths

from rumplab.errors import RumplabError, UsageError
from rumplab.image import layout
from rumplab.image.layout import BLOCK, MIB, PARTITION_START
from rumplab.image.recipe import ENVIRONMENT, recipe
from rumplab.image.writer import Runner, lay_out


@pytest.mark.parametrize(
    ("text", "mib"), [("64", 64), ("64M", 64), ("64 MiB", 64), ("2g", 2048), ("1GiB", 1024), ("1", 1)]
)
def test_sizes(text: str, mib: int) -> None:
    assert layout.parse_size(text) == mib * MIB


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "64K", "64T", "9" * 30, "999999999", "M", "6 4"])
def test_refused_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        layout.parse_size(text)


@given(st.lists(st.integers(0, 2**36), max_size=4))
def test_an_image_is_larger_than_its_content_but_not_much(sizes: list[int]) -> None:
    size = layout.image_size(sizes)
    total = sum(sizes)
    assert size % MIB == 0
    assert total < size <= total * 1.01 + 4 * MIB


def test_a_size_that_is_too_small_names_the_one_that_fits() -> None:
    needed = layout.image_size([30 * MIB])
    assert layout.choose(needed, needed, "the program") == needed
    with pytest.raises(RumplabError, match=f"needs {needed // MIB} MiB and --size gives {needed // MIB - 1}"):
        layout.choose(needed - MIB, needed, "the program")
    with pytest.raises(RumplabError, match="too large"):
        layout.choose(None, layout.image_size([layout.LARGEST]), "the program")


# Sizes at which ext2 needs another block, indirect block or block group.
EDGES = [0, 12 * BLOCK, 12 * BLOCK + 1, 1036 * BLOCK + 1, 5 * MIB - 7, 127 * MIB, 130 * MIB + 1]


@pytest.mark.parametrize("program_size", EDGES)
def test_the_computed_size_holds_the_program(tmp_path: Path, program_size: int) -> None:
    tools = tool_paths()
    program = tmp_path / "program"
    # Not zeros: debugfs would write a hole.
    program.write_bytes(b"x" * program_size)
    size = layout.image_size([program_size, 0, BLOCK])
    made = recipe(tools, program, size, "", None)
    image = tmp_path / "image.img"
    image.touch()
    work = tmp_path / "work"
    work.mkdir()
    lay_out(made, work, image)
    runner = Runner(work, made.environment, tmp_path, size)
    for step in made.steps:
        runner.run(step)
    assert image.stat().st_size == size
    copy = tmp_path / "copy"
    argv = [tools["debugfs"], "-R", f"dump /boot/program.bin {copy}", f"{image}?offset={PARTITION_START}"]
    subprocess.run(argv, env=ENVIRONMENT, check=True, capture_output=True, timeout=60)
    assert copy.read_bytes() == program.read_bytes()
