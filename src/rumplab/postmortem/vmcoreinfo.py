"""Linux's description of itself for who reads its memory from outside: the text called VMCOREINFO.

A kernel with crash dumps or /proc/kcore has it in a page of its own. For one without, the lines that a reader can't do
without are made of its symbols.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Optional

from rumplab.postmortem.elf import Elf, Note, Unfit, notes
from rumplab.postmortem.paging import PAGE

OWNER = b"VMCOREINFO"
FIRST = b"OSRELEASE="
TEXT = re.compile(rb"OSRELEASE=[\x21-\x7e]+\n(?:[\x20-\x7e]+\n)*")
NEEDED = (b"\nPAGESIZE=", b"\nSYMBOL(swapper_pg_dir)=")
NUMBER = rb"(?:^|\n)%s=(-?[0-9a-fx]+)\n"
LONGEST = PAGE
# A note's header and name, where the kernel has it as a note too.
HEADERS = (0, 24)
# Where a kernel's text is mapped to before the offset of its physical place.
KERNEL_MAP = 0xFFFF_FFFF_8000_0000
BANNER = "linux_banner"
BANNER_TEXT = re.compile(rb"Linux version ([\x21-\x7e]{1,120}) ")
# Newer kernels have the first name for what the second is the same as.
TABLES = ("init_top_pgt", "swapper_pg_dir")
WANTED = (BANNER, *TABLES, "init_uts_ns", "phys_base")
NT_GNU_BUILD_ID = 3
SHT_NOTE = 7

# Some bytes at a virtual address, or None where nothing is mapped.
Reader = Callable[[int, int], Optional[bytes]]


def find(memory: memoryview, ranges: Iterable[tuple[int, int, int]]) -> bytes | None:
    """The text in one of `ranges` of `memory`: offset, physical address and size."""
    for offset, physical, size in ranges:
        for at in occurrences(memory, offset, offset + size):
            where = (physical + at - offset) % PAGE
            text = TEXT.match(memory[at : min(at + LONGEST, offset + size)]) if where in HEADERS else None
            if text and all(line in text[0] for line in NEEDED):
                return text[0]
    return None


def occurrences(memory: memoryview, start: int, end: int) -> Iterator[int]:
    """Where the first line of such a text begins."""
    yield from (found.start() + start for found in re.finditer(re.escape(FIRST), memory[start:end]))


def made(symbols: Elf, read: Reader) -> bytes | None:
    """The same for the kernel whose symbols these are; None where its memory says that it is no Linux, or has none of
    them. `read` reads its memory."""
    known = symbols.symbols(WANTED)
    banner = BANNER_TEXT.match(read(known[BANNER], 160) or b"") if BANNER in known else None
    table = next((known[name] for name in TABLES if name in known), None)
    if banner is None or table is None:
        return None
    lines = [FIRST + banner[1]]
    identity = build_id(symbols)
    lines += [b"BUILD-ID=" + identity.hex().encode()] if identity else []
    lines += [b"PAGESIZE=%d" % PAGE, b"SYMBOL(swapper_pg_dir)=%x" % table]
    if "init_uts_ns" in known:
        lines.append(b"SYMBOL(init_uts_ns)=%x" % known["init_uts_ns"])
    base = read(known["phys_base"], 8) if "phys_base" in known else None
    lines += [b"NUMBER(phys_base)=%d" % int.from_bytes(base, "little", signed=True)] if base else []
    # It is where its symbols say, or it wouldn't have been known.
    lines.append(b"KERNELOFFSET=0")
    return b"\n".join(lines) + b"\n"


def build_id(symbols: Elf) -> bytes | None:
    for section in symbols.sections:
        if section.kind == SHT_NOTE:
            try:
                found = list(notes(bytes(symbols.data[section.offset : section.offset + section.size])))
            except Unfit:
                continue
            for note in found:
                if note.owner == b"GNU" and note.kind == NT_GNU_BUILD_ID:
                    return note.content
    return None


def number(text: bytes, name: bytes, base: int = 10) -> int | None:
    """The number that the line `name` of `text` has."""
    found = re.search(NUMBER % re.escape(name), text)
    return int(found[1], base) if found else None


def offset(notes: Iterable[Note]) -> int:
    """By how much the kernel whose notes these are is elsewhere than its symbols say, which it chooses at each boot."""
    for one in notes:
        if one.owner == OWNER:
            return number(one.content, b"KERNELOFFSET", 16) or 0
    return 0


def kernel_tables(text: bytes) -> int | None:
    """The physical address of the page tables that the kernel has for itself, which, unlike those of a program, always
    map all of it."""
    table = number(text, b"SYMBOL(swapper_pg_dir)", 16)
    if table is None or table < KERNEL_MAP:
        return None
    return table - KERNEL_MAP + (number(text, b"NUMBER(phys_base)") or 0)


def note(text: bytes) -> Note:
    return Note(OWNER, 0, text)
