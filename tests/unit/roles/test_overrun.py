"""The program with a memory corruption: it crashes by its bug, and only by that."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.staging import DONE, OVERRUN_EXAMPLE, boot, build, copy_example, needs_compiler, needs_qemu

pytestmark = [needs_compiler, needs_qemu, pytest.mark.qemu]
# The program writes 1 to isa-debug-exit, and QEMU exits with 2 * 1 + 1.
CRASHED = 3


def test_it_crashes_long_after_it_overwrote_the_pointer(tmp_path: Path) -> None:
    status, said = boot("-nic", "none", "-kernel", str(build(OVERRUN_EXAMPLE, tmp_path / "overrun.bin")))
    assert status == CRASHED
    # The address is the end of the text, in ASCII.
    address = int.from_bytes(b" long", "little")
    lines = ["overrun: the first", "overrun: the second", f"overrun: exception 0e rip {address:016x}"]
    assert said.splitlines() == lines


def test_with_a_text_that_fits_it_ends_without_a_crash(tmp_path: Path) -> None:
    source = copy_example(tmp_path / "source").with_name(OVERRUN_EXAMPLE.name)
    main = source / "main.c"
    text = main.read_text()
    assert text.count('"the third is too long"') == 1
    main.write_text(text.replace('"the third is too long"', '"the third"'))
    status, said = boot("-nic", "none", "-kernel", str(build(source, tmp_path / "overrun.bin")))
    assert status == DONE
    letters = ("the first", "the second", "the third", "the fourth", "done")
    assert said.splitlines() == [f"overrun: {letter}" for letter in letters]
