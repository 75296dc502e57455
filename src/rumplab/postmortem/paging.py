"""Reads the page tables of an x86 processor: which virtual addresses they map to which physical addresses."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Optional

PAGE = 4096
PRESENT, LARGE = 1, 1 << 7
ADDRESS = 0x000F_FFFF_FFFF_F000
CR0_PAGING, CR4_LARGE, CR4_PAE, CR4_FIVE = 1 << 31, 1 << 4, 1 << 5, 1 << 12
# How often one table is followed. Linux maps one page eight million times through shared tables (for returns to 16-bit
# code), and a kernel with KASAN does the same for its shadow memory.
MOST_VISITS = 4
MOST_RUNS = 40_000
MOST_ENTRIES = 8_000_000

# Returns the page of physical memory at an address, or None if there is none.
Reader = Callable[[int], Optional[memoryview]]


@dataclass(frozen=True, order=True)
class Run:
    """A mapping of `size` bytes at the address `virtual` to those at the address `physical`."""

    virtual: int
    physical: int
    size: int

    @property
    def end(self) -> int:
        return self.virtual + self.size


@dataclass(frozen=True)
class Mode:
    """A paging mode: `levels` levels of tables with entries of `width` bytes. On the levels in `large`, an entry may
    map a large page."""

    levels: int
    width: int
    large: tuple[int, ...]

    @property
    def index_bits(self) -> int:
        return 9 if self.width == 8 else 10


def mode(cr0: int, cr4: int, long: bool) -> Mode | None:
    """Returns the paging mode of a processor with these registers; None without paging. `long` says that it is in long
    mode."""
    if not cr0 & CR0_PAGING:
        return None
    if long:
        return Mode(5 if cr4 & CR4_FIVE else 4, 8, (2, 3))
    if cr4 & CR4_PAE:
        return Mode(3, 8, (2,))
    return Mode(2, 4, (2,) if cr4 & CR4_LARGE else ())


@dataclass
class Walk:
    """A walk through page tables. `cut` says that the tables map more than `runs` has."""

    read: Reader
    mode: Mode
    runs: list[Run] = field(default_factory=list)
    cut: bool = False
    _visits: Counter[tuple[int, int]] = field(default_factory=Counter)
    _entries: int = 0

    def from_root(self, cr3: int) -> Walk:
        """Follows the tables from the value of register CR3, and returns this walk."""
        if self.mode.levels == 3 and self.mode.width == 8:
            self._pointers(cr3 & 0xFFFF_FFE0)
        else:
            self._table(cr3 & ADDRESS, self.mode.levels, 0)
        return self

    def _pointers(self, at: int) -> None:
        """Follows the page-directory-pointer table of PAE: four entries, which may be anywhere in a page."""
        page = self.read(at & ~(PAGE - 1))
        if page is not None:
            entries = page.cast("Q")[(at & (PAGE - 1)) // 8 :][:4]
            for number, entry in enumerate(entries):
                if entry & PRESENT:
                    self._table(entry & ADDRESS, 2, number << 30)

    def _table(self, at: int, level: int, base: int) -> None:
        page = self.read(at)
        if page is None:
            return
        self._visits[at, level] += 1
        if self._visits[at, level] > MOST_VISITS:
            return
        shift = 12 + (level - 1) * self.mode.index_bits
        entries = page.cast("Q" if self.mode.width == 8 else "I")
        self._entries += len(entries)
        for number, entry in enumerate(entries):
            if not entry & PRESENT:
                continue
            if len(self.runs) > MOST_RUNS or self._entries > MOST_ENTRIES:
                self.cut = True
                return
            virtual = base + (number << shift)
            if level == 1 or (level in self.mode.large and entry & LARGE):
                self._map(virtual, frame(entry, shift, self.mode), 1 << shift)
            else:
                self._table(entry & ADDRESS, level - 1, virtual)

    def _map(self, virtual: int, physical: int, size: int) -> None:
        if self.mode.levels > 3:
            virtual = canonical(virtual, 12 + 9 * self.mode.levels)
        last = self.runs[-1] if self.runs else None
        if last and last.end == virtual and last.physical + last.size == physical:
            self.runs[-1] = Run(last.virtual, last.physical, last.size + size)
        else:
            self.runs.append(Run(virtual, physical, size))


def frame(entry: int, shift: int, mode: Mode) -> int:
    """Returns the physical address in `entry`, which maps a page of 2**shift bytes."""
    if mode.width == 4 and shift > 12:
        # With PSE-36, bits 13 to 20 are bits 32 to 39 of the address.
        return entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32
    return entry & ADDRESS & ~((1 << shift) - 1)


def canonical(address: int, bits: int) -> int:
    """Returns `address`, which has `bits` bits, sign-extended to 64 bits."""
    return address | (1 << 64) - (1 << bits) if address >> (bits - 1) & 1 else address


def translated(runs: Iterable[Run], virtual: int) -> int | None:
    """Returns the physical address of `virtual`; None if no run maps it."""
    return next((run.physical + virtual - run.virtual for run in runs if run.virtual <= virtual < run.end), None)


def joined(first: Iterable[Run], others: Iterable[Run]) -> list[Run]:
    """Returns the runs of both, sorted. Where both map an address, `first` wins."""
    kept = sorted(first)
    starts = [run.virtual for run in kept]
    added = [piece for run in others for piece in uncovered(run, kept, starts)]
    return sorted([*kept, *added])


def uncovered(run: Run, kept: list[Run], starts: list[int]) -> Iterator[Run]:
    """Yields the parts of `run` that no run in `kept` maps. `kept` is sorted; `starts` has its virtual addresses."""
    at = run.virtual
    place = max(bisect_right(starts, at) - 1, 0)
    while at < run.end and place < len(kept):
        other = kept[place]
        if other.virtual >= run.end:
            break
        if other.virtual > at:
            yield Run(at, run.physical + at - run.virtual, other.virtual - at)
        at = max(at, other.end)
        place += 1
    if at < run.end:
        yield Run(at, run.physical + at - run.virtual, run.end - at)
