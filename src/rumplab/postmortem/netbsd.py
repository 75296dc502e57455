"""Finds the page tables of a NetBSD/amd64 kernel in its memory.

With SVS (separate virtual space), a processor in user mode has page tables of its own, which map almost nothing of the
kernel. Two places lead to the kernel's tables: its variable PDPpaddr, and a page of the processor that those tables
map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, Optional

from rumplab.postmortem import paging
from rumplab.postmortem.elf import Elf
from rumplab.postmortem.paging import PAGE, Run

# The kernel's variable with the physical address of its tables.
TABLES = "PDPpaddr"
# NetBSD's loaders put the kernel at these bits of its addresses.
LOADED = 0x0FFF_FFFF
# The address of the processor's page (UTLS), by NetBSD's version. Its first word is the physical address of the
# kernel's tables.
PROCESSOR_PAGES = (0xFFFF_FF00_0000_0000, 0xFFFF_C000_0000_0000)
WORD = 8

# Returns the bytes at a physical address, or None if there is no memory.
Reader = Callable[[int, int], Optional[bytes]]


def of_processor(runs: Sequence[Run], read: Reader) -> Iterator[int]:
    """Yields where the processor whose tables map `runs` may have the kernel's tables. The caller checks them."""
    for virtual in PROCESSOR_PAGES:
        yield from tables_at(paging.translated(runs, virtual), read)


def of_kernel(symbols: Elf, runs: Sequence[Run], read: Reader) -> Iterator[int]:
    """Yields where the kernel with `symbols` may have its tables. The caller checks them."""
    virtual = symbols.symbols([TABLES]).get(TABLES)
    if virtual is not None:
        mapped = paging.translated(runs, virtual)
        yield from tables_at(virtual & LOADED if mapped is None else mapped, read)


def tables_at(physical: int | None, read: Reader) -> Iterator[int]:
    """Yields the address in the word at `physical`, if a page can be there."""
    word = read(physical, WORD) if physical is not None else None
    address = int.from_bytes(word or b"", "little")
    if address and address % PAGE == 0:
        yield address
