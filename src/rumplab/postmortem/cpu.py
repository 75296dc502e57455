"""A processor's registers in a dump: QEMU's own note, and the note that debuggers read (NT_PRSTATUS of x86-64)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from rumplab.postmortem.elf import Note

QEMU = b"QEMU"
CORE = b"CORE"
NT_PRSTATUS = 1
# rax to r15, rip and flags; then ten segments of selector, limit, flags, base; cr0 to cr4.
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{number}" for number in range(8, 16)),
           "rip", "rflags")  # fmt: skip
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
FORMAT = struct.Struct(f"<II{len(GENERAL)}Q{'IIIIQ' * len(SEGMENTS)}5Q")
# GDB and drgn read these, in this order, after 112 bytes that have the thread's number at offset 32.
USER_REGISTERS = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
                  "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs",
                  "gs")  # fmt: skip
STATUS = struct.Struct(f"<32xI76x{len(USER_REGISTERS)}Q8x")


@dataclass(frozen=True)
class Cpu:
    """One processor's registers by name. `segments` has the selectors, `bases` the segments' base addresses."""

    general: dict[str, int]
    segments: dict[str, int]
    bases: dict[str, int]
    control: tuple[int, ...]

    @property
    def cr0(self) -> int:
        return self.control[0]

    @property
    def cr3(self) -> int:
        return self.control[3]

    @property
    def cr4(self) -> int:
        return self.control[4]

    @property
    def privileged(self) -> bool:
        """Returns whether it runs in ring 0."""
        return not self.segments["cs"] & 3


def read(notes: Iterable[Note]) -> list[Cpu]:
    """Returns the processors in QEMU's notes, in their order."""
    return [described(note.content) for note in notes if note.owner == QEMU and len(note.content) >= FORMAT.size]


def described(content: bytes) -> Cpu:
    """Returns the registers in `content`, the content of QEMU's note."""
    _, _, *values = FORMAT.unpack_from(content)
    general = dict(zip(GENERAL, values))
    selectors: dict[str, int] = {}
    bases: dict[str, int] = {}
    for at, name in enumerate(SEGMENTS):
        selectors[name], _, _, _, bases[name] = values[len(GENERAL) + 5 * at :][:5]
    return Cpu(general, selectors, bases, tuple(values[-5:]))


def status_note(cpu: Cpu, number: int) -> Note:
    """Returns the NT_PRSTATUS note for processor `number`, counted from 1."""
    known = {
        **cpu.general,
        **cpu.segments,
        "fs_base": cpu.bases["fs"],
        "gs_base": cpu.bases["gs"],
        "orig_rax": (1 << 64) - 1,
    }
    return Note(CORE, NT_PRSTATUS, STATUS.pack(number, *(known[name] for name in USER_REGISTERS)))
