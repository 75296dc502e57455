"""Which files the stager accepts as a unikernel."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumplab.errors import RumplabError
from rumplab.image.multiboot import SEARCH, check_program, elf_problem, header_problem

MAGIC = 0x1BADB002


def elf(machine: int = 62, order: int = 1) -> bytes:
    return struct.pack("<4sBBB9xHH", b"\x7fELF", 2, order, 1, 2, machine).ljust(64, b"\0")


def header(flags: int = 0x10003, error: int = 0) -> bytes:
    return struct.pack("<III", MAGIC, flags, (-MAGIC - flags + error) & 0xFFFFFFFF)


def placed(what: bytes, at: int, size: int = 2 * SEARCH) -> bytes:
    return (elf().ljust(at, b"\0") + what).ljust(size, b"\0")


@given(st.integers(16, (SEARCH - 12) // 4).map(lambda n: 4 * n))
def test_a_header_anywhere_in_the_first_8192_bytes(at: int) -> None:
    assert header_problem(placed(header(), at)[:SEARCH]) is None


@given(st.binary(max_size=SEARCH))
def test_any_bytes_get_an_answer(head: bytes) -> None:
    assert elf_problem(head) is None or elf_problem(head)
    problem = header_problem(head)
    assert problem is None or "Multiboot" in problem or "GRUB" in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an ELF file"),
        (b"#!/bin/sh\n", "is not an ELF file"),
        (b"\x7fELF", "is a truncated ELF file"),
        (elf(machine=183) + header(), "another processor (machine 183)"),
        (elf(order=2) + header(), "another processor"),
        (placed(b"", 64), "no Multiboot header in its first 8192 bytes"),
        (placed(header(), SEARCH), "no Multiboot header in its first 8192 bytes"),
        (placed(header(), SEARCH - 8), "no Multiboot header in its first 8192 bytes"),
        (placed(header(error=1), 64), "at byte 64 whose checksum is wrong"),
        (placed(header(), 66), "at byte 66, which is not a multiple of 4"),
        (placed(header(flags=0x10008), 64), "feature that GRUB doesn't have (header flags 0x8)"),
    ],
)
def test_refusals(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "pro gräm"
    path.write_bytes(content)
    with pytest.raises(RumplabError) as refusal:
        check_program(path)
    assert message in str(refusal.value) and str(path) in str(refusal.value)


def test_a_good_header_after_a_bad_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(placed(header(error=1) + header(), 64))
    assert check_program(path) == 2 * SEARCH


def test_only_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path):
        with pytest.raises(RumplabError, match="is not a file"):
            check_program(path)
    with pytest.raises(RumplabError, match=r"cannot read .*No such file"):
        check_program(tmp_path / "absent")
