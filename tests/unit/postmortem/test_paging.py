"""Page tables of each kind, walked."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumplab.postmortem import paging
from rumplab.postmortem.paging import CR0_PAGING, CR4_FIVE, CR4_LARGE, CR4_PAE, LARGE, PAGE, PRESENT, Run

MIB = 1 << 20
LONG = paging.mode(CR0_PAGING, CR4_PAE, True)


class Memory:
    """A physical memory with page tables."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def put(self, table: int, index: int, entry: int, width: int = 8) -> None:
        page = self.pages.setdefault(table & ~(PAGE - 1), bytearray(PAGE))
        struct.pack_into("<Q" if width == 8 else "<I", page, (table & (PAGE - 1)) + index * width, entry)

    def read(self, address: int) -> memoryview | None:
        page = self.pages.get(address)
        return None if page is None else memoryview(bytes(page))

    def runs(self, mode: paging.Mode | None, root: int) -> list[Run]:
        assert mode is not None
        return paging.Walk(self.read, mode).from_root(root).runs


def long_tables(levels: int = 4) -> Memory:
    """Makes one table on each level; the first entry of each refers to the next lower one."""
    memory = Memory()
    for level in range(1, levels):
        memory.put(level * PAGE, 0, (level + 1) * PAGE | PRESENT)
    return memory


def test_without_paging_there_are_no_virtual_addresses() -> None:
    assert paging.mode(0, CR4_PAE, False) is None


def test_consecutive_pages_are_one_run() -> None:
    memory = long_tables()
    for at in (3, 4, 5, 9):
        memory.put(4 * PAGE, at, (0x100 + at) * PAGE | PRESENT)
    memory.put(4 * PAGE, 6, 0x800 * PAGE | PRESENT)
    assert memory.runs(LONG, PAGE) == [
        Run(3 * PAGE, 0x103 * PAGE, 3 * PAGE),
        Run(6 * PAGE, 0x800 * PAGE, PAGE),
        Run(9 * PAGE, 0x109 * PAGE, PAGE),
    ]


def test_an_entry_that_is_not_present_maps_nothing() -> None:
    memory = long_tables()
    memory.put(4 * PAGE, 3, 0x103 * PAGE)
    assert memory.runs(LONG, PAGE) == []


def test_addresses_in_the_upper_half_are_sign_extended() -> None:
    memory = long_tables()
    memory.put(PAGE, 511, 2 * PAGE | PRESENT)
    memory.put(3 * PAGE, 1, 4 * MIB | LARGE | PRESENT)
    assert Run(0xFFFF_FF80_0020_0000, 4 * MIB, 2 * MIB) in memory.runs(LONG, PAGE)


def test_five_levels_map_57_bits() -> None:
    mode = paging.mode(CR0_PAGING, CR4_PAE | CR4_FIVE, True)
    memory = long_tables(5)
    memory.put(PAGE, 511, 2 * PAGE | PRESENT)
    memory.put(5 * PAGE, 0, 0x900 * PAGE | PRESENT)
    assert memory.runs(mode, PAGE) == [Run(0, 0x900 * PAGE, PAGE), Run(0xFFFF << 48, 0x900 * PAGE, PAGE)]


def test_flag_bits_are_not_part_of_an_address() -> None:
    memory = long_tables()
    memory.put(4 * PAGE, 0, 1 << 63 | 0x103 * PAGE | 0xE00 | PRESENT)
    # Bit 12 of a large page is PAT.
    memory.put(3 * PAGE, 1, 6 * MIB | 1 << 12 | LARGE | PRESENT)
    assert memory.runs(LONG, PAGE) == [Run(0, 0x103 * PAGE, PAGE), Run(2 * MIB, 6 * MIB, 2 * MIB)]


def test_tables_of_i386() -> None:
    mode = paging.mode(CR0_PAGING, CR4_LARGE, False)
    memory = Memory()
    memory.put(PAGE, 768, 2 * PAGE | PRESENT, 4)
    memory.put(2 * PAGE, 1, 0x55 * PAGE | PRESENT, 4)
    # 4 MiB at 4 GiB + 8 MiB.
    memory.put(PAGE, 1, 8 * MIB | 1 << 13 | LARGE | PRESENT, 4)
    expected = [Run(4 * MIB, (4 << 30) + 8 * MIB, 4 * MIB), Run(0xC000_1000, 0x55 * PAGE, PAGE)]
    assert memory.runs(mode, PAGE) == expected
    # Without CR4.PSE, the bit is ignored, and the entry refers to a table that doesn't exist.
    assert memory.runs(paging.mode(CR0_PAGING, 0, False), PAGE) == expected[1:]


def test_tables_of_i386_with_pae() -> None:
    mode = paging.mode(CR0_PAGING, CR4_PAE, False)
    memory = Memory()
    memory.put(PAGE + 32, 3, 2 * PAGE | PRESENT)
    memory.put(2 * PAGE, 0, 3 * PAGE | PRESENT)
    memory.put(2 * PAGE, 1, 6 * MIB | LARGE | PRESENT)
    memory.put(3 * PAGE, 5, 0x66 * PAGE | PRESENT)
    assert memory.runs(mode, PAGE + 32) == [
        Run(0xC000_5000, 0x66 * PAGE, PAGE),
        Run(0xC020_0000, 6 * MIB, 2 * MIB),
    ]


def test_a_table_that_is_shared_many_times_is_followed_a_few_times() -> None:
    memory = long_tables()
    for at in range(512):
        memory.put(2 * PAGE, at, 3 * PAGE | PRESENT)
        memory.put(3 * PAGE, at, 4 * PAGE | PRESENT)
        memory.put(4 * PAGE, at, 0x77 * PAGE | PRESENT)
    assert len(memory.runs(LONG, PAGE)) == 512 * paging.MOST_VISITS


def test_a_table_that_refers_to_itself_ends() -> None:
    memory = Memory()
    for at in range(512):
        memory.put(PAGE, at, PAGE | PRESENT)
    walk = paging.Walk(memory.read, LONG or pytest.fail()).from_root(PAGE)
    assert len(walk.runs) <= paging.MOST_RUNS + 1


def test_too_many_mappings_are_cut_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MOST_RUNS", 10)
    memory = long_tables()
    for at in range(0, 512, 2):
        memory.put(4 * PAGE, at, 0x77 * PAGE | PRESENT)
    walk = paging.Walk(memory.read, LONG or pytest.fail()).from_root(PAGE)
    assert walk.cut and len(walk.runs) == 11


RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9)), max_size=8)


def apart(runs: list[tuple[int, int, int]]) -> list[Run]:
    """Returns the runs that overlap no earlier one."""
    taken: set[int] = set()
    found = []
    for virtual, physical, size in runs:
        addresses = set(range(virtual, virtual + size))
        if not addresses & taken:
            taken |= addresses
            found.append(Run(virtual, physical, size))
    return found


def mapping(runs: list[Run]) -> dict[int, int]:
    pairs = [(run.virtual + at, run.physical + at) for run in runs for at in range(run.size)]
    assert len(pairs) == len(dict(pairs)), "an address is mapped twice"
    return dict(pairs)


@given(RUNS, RUNS)
def test_the_first_of_two_tables_wins(first: list[tuple[int, int, int]], others: list[tuple[int, int, int]]) -> None:
    one, other = apart(first), apart(others)
    assert mapping(paging.joined(one, other)) == {**mapping(other), **mapping(one)}
