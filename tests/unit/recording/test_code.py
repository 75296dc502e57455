"""The code of a leg, in QEMU's log and in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumplab.recording import code

LOG = b"""\
----------------
IN:SPACE
0xfffffff0:  ea 5b e0 00 f0           ljmpw    $0xf000:$0xe05b

----------------
IN: main
0x00102010:  55                       pushq    %rbp
0x00102011:  48 b8 11 22 33 44 55 66  movabsq  $0x1122334455667788, %rax
0x00102019:  77 88
0x0010201b:  c3                       retq

----------------
IN: cut
0x00300000:  90                       nop"""
RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))))


def test_the_first_and_the_last_address_of_each_block_count(tmp_path: Path) -> None:
    path = tmp_path / "log"
    # QEMU writes a space if there is no name.
    path.write_bytes(LOG.replace(b"SPACE", b" ") + b"\n")
    found = code.logged(path)
    assert list(found.starts) == [0x102010, 0x300000, 0xFFFFFFF0]
    assert list(found.ends) == [0x10201B, 0x300000, 0xFFFFFFF0]
    path.write_bytes(b"")
    assert not code.logged(path).starts


@given(RANGES)
def test_ranges_contain_what_they_are_made_of(ranges: list[tuple[int, int]]) -> None:
    found = code.made(ranges)
    for address in range(80):
        assert found.contains(address) == any(start <= address <= end for start, end in ranges)


@pytest.mark.parametrize("ranges", [[], [(0, 5)], [(1 << 63, (1 << 64) - 1), (3, 4)]])
def test_a_file_keeps_the_ranges(tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    path = tmp_path / "code"
    code.made(ranges).write(path)
    assert code.read(path) == code.made(ranges)
