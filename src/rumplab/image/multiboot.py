"""Checks whether a Multiboot 1 loader can start a program.

Multiboot Specification 0.6.96, section 3.1, defines the header. It is in the first 8192 bytes, aligned to 4 bytes.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from rumplab.errors import RumplabError

SEARCH = 8192
MAGIC = 0x1BADB002
MAGIC_BYTES = struct.pack("<I", MAGIC)
HEADER_SIZE = 12
# Bits 0 to 15 are required features; GRUB has the first three and refuses a program that requires another one.
UNKNOWN_DEMANDS = 0xFFF8
# Bit 16: the header contains the load addresses, so the loader needn't read them from the ELF headers.
HAS_ADDRESSES = 0x10000

PT_INTERP = 3
PT_NOTE = 4
ET_DYN = 3
# The beginning of the ELF note: its sizes, its type XEN_ELFNOTE_PHYS32_ENTRY, and its name.
PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")
ELF_MAGIC = b"\x7fELF"
ELF_LITTLE_ENDIAN = 1
ELF_64BIT = 2
ELF_X86 = (3, 62)
ELF_IDENTITY = struct.Struct("<4sBB10xHH")


def check_program(path: Path) -> int:
    """The size in bytes of the unikernel `path`. RumplabError when it can't be booted, with the reason."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RumplabError(f"{path} is not a file; name the unikernel that the build wrote")
        head = os.pread(descriptor, SEARCH, 0)
    finally:
        os.close(descriptor)
    problem = elf_problem(head) or header_problem(head)
    if problem:
        raise RumplabError(f"{path} {problem}")
    return status.st_size


def elf_problem(head: bytes) -> str | None:
    """Why a file that begins with `head` isn't an x86 ELF program; None if it is one."""
    if not head.startswith(ELF_MAGIC):
        return "is not an ELF file; name the unikernel that the build wrote, not an image or an archive"
    if len(head) < ELF_IDENTITY.size:
        return "is a truncated ELF file; build it again"
    _, _, order, _, machine = ELF_IDENTITY.unpack_from(head)
    if order != ELF_LITTLE_ENDIAN or machine not in ELF_X86:
        return f"is an ELF file for another processor (machine {machine}); build it for x86"
    return None


def hosted(head: bytes) -> bool:
    """Whether the x86 ELF program with the first 8192 bytes `head` is for an operating system: a shared library, a
    position-independent program, or a program with a dynamic linker. A kernel is none of these."""
    if struct.unpack_from("<H", head, 16)[0] == ET_DYN:
        return True
    wide = head[len(ELF_MAGIC)] == ELF_64BIT
    try:
        start = struct.unpack_from("<Q" if wide else "<I", head, 32 if wide else 28)[0]
        size, count = struct.unpack_from("<HH", head, 54 if wide else 42)
        return any(struct.unpack_from("<I", head, start + number * size)[0] == PT_INTERP for number in range(count))
    except (struct.error, OverflowError):
        # The program headers are not in the first 8192 bytes, or are damaged.
        return False


def header_problem(head: bytes) -> str | None:
    """Why the first 8192 bytes `head` contain no valid Multiboot header; None if they do."""
    problem = None
    for offset in range(0, len(head) - HEADER_SIZE + 1, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, offset)
        if magic != MAGIC:
            continue
        if (magic + flags + checksum) & 0xFFFFFFFF:
            problem = problem or f"has a Multiboot header at byte {offset} whose checksum is wrong"
        elif flags & UNKNOWN_DEMANDS:
            demands = flags & UNKNOWN_DEMANDS
            return f"requires a boot loader's feature that GRUB doesn't have (header flags {demands:#x})"
        else:
            return None
    unaligned = head.find(MAGIC_BYTES)
    if problem is None and unaligned % 4 and unaligned >= 0:
        problem = f"has a Multiboot header at byte {unaligned}, which is not a multiple of 4"
    return (problem or "has no Multiboot header in its first 8192 bytes") + (
        "; link it as a Multiboot 1 program, with the header's section first"
    )


def boots_directly(head: bytes) -> bool:
    """Whether QEMU's own loader starts the x86 ELF program with the first 8192 bytes `head`. QEMU accepts Multiboot
    programs. It can't read 64-bit ELF headers, so it accepts a 64-bit program only if the Multiboot header has the
    addresses."""
    if header_problem(head) is not None:
        return False
    return head[len(ELF_MAGIC)] != ELF_64BIT or header_flags(head) & HAS_ADDRESSES != 0


def header_flags(head: bytes) -> int:
    """The flags of the first Multiboot header with a correct checksum in `head`; 0 when there is none."""
    for offset in range(0, len(head) - HEADER_SIZE + 1, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, offset)
        if magic == MAGIC and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            return int(flags)
    return 0


def direct_problem(path: str) -> str | None:
    """Why QEMU's own loader can't start the program at `path`, with the remedy; None if it can."""
    with open(path, "rb") as stream:
        head = stream.read(SEARCH)
        problem = elf_problem(head)
        if problem or boots_directly(head) or has_pvh_entry(stream, head):
            return problem
    if header_problem(head) is None:
        return "has 64 bits, which QEMU's own loader doesn't accept; make an image of it with: rumplab stage"
    return header_problem(head)


def has_pvh_entry(stream: BinaryIO, head: bytes) -> bool:
    """Whether the ELF program has the note that tells Xen and QEMU its 32-bit entry point. A program with this note
    needs no Multiboot header."""
    wide = head[len(ELF_MAGIC)] == ELF_64BIT
    try:
        start = struct.unpack_from("<Q" if wide else "<I", head, 32 if wide else 28)[0]
        size, count = struct.unpack_from("<HH", head, 54 if wide else 42)
        for number in range(count):
            stream.seek(start + number * size)
            entry = stream.read(min(size, SEARCH))
            kind = struct.unpack_from("<I", entry)[0]
            offset, length = struct.unpack_from("<Q16xQ" if wide else "<I8xI", entry, 8 if wide else 4)
            if kind == PT_NOTE:
                stream.seek(offset)
                if PVH_NOTE.search(stream.read(min(length, SEARCH))):
                    return True
    except (struct.error, OSError, OverflowError, ValueError):
        # A damaged program counts as one without the note.
        return False
    return False
