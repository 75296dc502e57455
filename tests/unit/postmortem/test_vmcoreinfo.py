"""Linux's description of itself: found in memory, made of symbols, and used."""

from __future__ import annotations

import struct

import pytest

from rumplab.postmortem import debugger, elf, vmcoreinfo
from rumplab.postmortem.elf import Note
from rumplab.postmortem.paging import PAGE

TEXT = (
    b"OSRELEASE=6.1.0-test\nBUILD-ID=00ff\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff82a10000\n"
    b"NUMBER(phys_base)=-270532608\nKERNELOFFSET=15600000\n"
)


def found(memory: bytes, physical: int = 0) -> bytes | None:
    return vmcoreinfo.find(memoryview(memory), [(0, physical, len(memory))])


def test_the_text_is_found_at_the_beginning_of_a_page() -> None:
    memory = bytearray(4 * PAGE)
    memory[2 * PAGE : 2 * PAGE + len(TEXT)] = TEXT
    assert found(bytes(memory)) == TEXT
    # In QEMU's file, pages of memory aren't aligned to pages of the file.
    assert found(b"header" + bytes(memory), -6 % PAGE) == TEXT


def test_the_text_is_found_in_a_note_too() -> None:
    note = elf.note_bytes(Note(b"VMCOREINFO", 0, TEXT))
    assert found(note.ljust(PAGE, b"\0")) == TEXT


@pytest.mark.parametrize(
    "memory",
    [
        b"x" + TEXT,
        TEXT.replace(b"PAGESIZE", b"pagesize"),
        TEXT.replace(b"swapper_pg_dir", b"other_pg_dir"),
        b"OSRELEASE=\n",
        b"OSRELEASE=%s\n\0",
    ],
)
def test_a_text_that_only_looks_like_it_is_ignored(memory: bytes) -> None:
    assert found(memory.ljust(PAGE, b"\0")) is None


def test_an_incomplete_copy_does_not_hide_the_real_text() -> None:
    assert found(b"OSRELEASE=6\n".ljust(PAGE, b"\0") + TEXT) == TEXT


def test_the_address_of_the_kernels_tables_is_physical() -> None:
    assert vmcoreinfo.kernel_tables(TEXT) == 0x2A10000 - 270532608
    assert vmcoreinfo.kernel_tables(TEXT.replace(b"ffffffff82a10000", b"1000")) is None
    assert vmcoreinfo.kernel_tables(b"OSRELEASE=6\n") is None


def test_the_symbols_of_a_kernel_with_kaslr_are_moved() -> None:
    offset = vmcoreinfo.offset([Note(b"CORE", 1, b""), vmcoreinfo.note(TEXT)])
    assert offset == 0x15600000
    assert debugger.symbols("/a b/vmlinux", offset) == 'symbol-file -o 0x15600000 "/a b/vmlinux"'
    assert debugger.symbols("/vmlinux", 0) == 'file "/vmlinux"'
    assert vmcoreinfo.offset([]) == 0


# The sections of the file: none, strings, symbols, notes.
BANNER, TABLE, BASE = 0xFFFFFFFF81629E60, 0xFFFFFFFF8181D000, 0xFFFFFFFF81824010


def kernel(names: dict[str, int]) -> elf.Elf:
    """Returns an ELF file with these symbols and a build ID."""
    strings = b"\0" + b"\0".join(name.encode() for name in names) + b"\0"
    symbols = b"".join(
        struct.pack("<IBBHQQ", strings.index(b"\0" + name.encode() + b"\0") + 1, 0, 0, 1, value, 0)
        for name, value in names.items()
    )
    notes = elf.note_bytes(Note(b"GNU", 3, b"\xab\xcd"))
    data = bytes(64) + strings + symbols + notes
    sections = [
        (0, 0, 0, 0, 0),
        (3, 64, len(strings), 0, 0),
        (2, 64 + len(strings), len(symbols), 1, 24),
        (7, 64 + len(strings) + len(symbols), len(notes), 0, 0),
    ]
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, at, size, link, 0, 0, each) for kind, at, size, link, each in sections
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 0, len(data), 0, 64, 56, 0, 64, len(sections), 1
    )
    return elf.parse(header + data[64:] + table)


def read(address: int, size: int) -> bytes | None:
    return {BANNER: b"Linux version 6.1.192 (somebody) ...", BASE: (-4096).to_bytes(8, "little", signed=True)}.get(
        address
    )


def test_the_text_is_made_from_symbols_if_the_kernel_has_none() -> None:
    names = {"linux_banner": BANNER, "init_top_pgt": TABLE, "phys_base": BASE, "init_uts_ns": 0x10}
    made = vmcoreinfo.made(kernel(names), read)
    assert made is not None
    assert made.decode().splitlines() == [
        "OSRELEASE=6.1.192",
        "BUILD-ID=abcd",
        "PAGESIZE=4096",
        "SYMBOL(swapper_pg_dir)=ffffffff8181d000",
        "SYMBOL(init_uts_ns)=10",
        "NUMBER(phys_base)=-4096",
        "KERNELOFFSET=0",
    ]
    assert found(made.ljust(PAGE, b"\0")) == made


def test_no_text_is_made_for_another_kernel_or_another_address() -> None:
    assert vmcoreinfo.made(kernel({"msgbufp": 1}), read) is None
    assert vmcoreinfo.made(kernel({"linux_banner": BANNER}), read) is None
    # The kernel isn't at the address in its symbols.
    assert vmcoreinfo.made(kernel({"linux_banner": BANNER + 16, "init_top_pgt": TABLE}), read) is None
