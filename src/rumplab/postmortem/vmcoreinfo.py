"""VMCOREINFO, the text by which a Linux kernel describes itself to programs that read its memory.

A kernel with crash dumps or /proc/kcore has the text in a page of its own. For other kernels, this module makes the
lines that readers need from the kernel's symbols.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Optional

from rumplab.postmortem.elf import Elf, InvalidElf, Note, notes
from rumplab.postmortem.paging import PAGE

OWNER = b"VMCOREINFO"
FIRST = b"OSRELEASE="
TEXT = re.compile(rb"OSRELEASE=[\x21-\x7e]+\n(?:[\x20-\x7e]+\n)*")
NEEDED = (b"\nPAGESIZE=", b"\nSYMBOL(swapper_pg_dir)=")
NUMBER = rb"(?:^|\n)%s=(-?[0-9a-fx]+)\n"
LONGEST = PAGE
# The text's offset in its page: 0, or behind the header and name of the kernel's own ELF note.
HEADERS = (0, 24)
# The virtual address of physical address 0 in the mapping of the kernel's text (__START_KERNEL_map).
KERNEL_MAP = 0xFFFF_FFFF_8000_0000
BANNER = "linux_banner"
BANNER_TEXT = re.compile(rb"Linux version ([\x21-\x7e]{1,120}) ")
# Newer kernels use the first name; the second is another name for it.
TABLES = ("init_top_pgt", "swapper_pg_dir")
WANTED = (BANNER, *TABLES, "init_uts_ns", "phys_base")
NT_GNU_BUILD_ID = 3
SHT_NOTE = 7

# Returns the bytes at a virtual address, or None if the guest maps none there.
Reader = Callable[[int, int], Optional[bytes]]


def find(memory: memoryview, ranges: Iterable[tuple[int, int, int]]) -> bytes | None:
    """Returns the text in `memory`, or None. Each of `ranges` is an offset in `memory`, its physical address and a
    size."""
    for offset, physical, size in ranges:
        for at in occurrences(memory, offset, offset + size):
            where = (physical + at - offset) % PAGE
            text = TEXT.match(memory[at : min(at + LONGEST, offset + size)]) if where in HEADERS else None
            if text and all(line in text[0] for line in NEEDED):
                return text[0]
    return None


def occurrences(memory: memoryview, start: int, end: int) -> Iterator[int]:
    """Yields the offsets where the first line of such a text begins."""
    yield from (found.start() + start for found in re.finditer(re.escape(FIRST), memory[start:end]))


def made(symbols: Elf, read: Reader) -> bytes | None:
    """Makes the text from the kernel's `symbols`; `read` reads the kernel's memory. Returns None if the memory has no
    Linux banner, or if a necessary symbol is missing."""
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
    # The banner was at its symbol's address, so the kernel is where its symbols say.
    lines.append(b"KERNELOFFSET=0")
    return b"\n".join(lines) + b"\n"


def build_id(symbols: Elf) -> bytes | None:
    """Returns the GNU build ID of the ELF file; None if it has none."""
    for section in symbols.sections:
        if section.kind == SHT_NOTE:
            try:
                found = list(notes(bytes(symbols.data[section.offset : section.offset + section.size])))
            except InvalidElf:
                continue
            for note in found:
                if note.owner == b"GNU" and note.kind == NT_GNU_BUILD_ID:
                    return note.content
    return None


def number(text: bytes, name: bytes, base: int = 10) -> int | None:
    """Returns the number on the line `name` of `text`; None without that line."""
    found = re.search(NUMBER % re.escape(name), text)
    return int(found[1], base) if found else None


def offset(notes: Iterable[Note]) -> int:
    """Returns the kernel's offset in bytes from the addresses in its symbols: KASLR chooses one at each boot. 0 if the
    notes have none."""
    for one in notes:
        if one.owner == OWNER:
            return number(one.content, b"KERNELOFFSET", 16) or 0
    return 0


def kernel_tables(text: bytes) -> int | None:
    """Returns the physical address of the kernel's own page tables, or None. They map the whole kernel, while a
    program's tables may not."""
    table = number(text, b"SYMBOL(swapper_pg_dir)", 16)
    if table is None or table < KERNEL_MAP:
        return None
    return table - KERNEL_MAP + (number(text, b"NUMBER(phys_base)") or 0)


def note(text: bytes) -> Note:
    """Returns the ELF note with `text`."""
    return Note(OWNER, 0, text)
