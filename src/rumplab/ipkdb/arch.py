"""What differs between architectures: the registers, as IPKDB sends them and as GDB numbers them, and the breakpoint.

IPKDB's register area is ``ipkdbregs`` of the machine's ``<machine/ipkdb.h>``, as raw bytes in the target's byte order.
The target descriptions are in GDB's format (GDB manual, appendix "Target Descriptions"), with the features and register
names that GDB requires for the architecture. A register's position in `Arch.registers` is GDB's register number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal
from xml.sax.saxutils import quoteattr

WORD_SIZE = 4


@dataclass(frozen=True)
class Register:
    """One register. `size` is in bytes; `type` is a type of GDB's target descriptions. With `sent`, IPKDB's area
    contains the register; else GDB gets the value "unavailable"."""

    name: str
    size: int = WORD_SIZE
    type: str = "int"
    feature: str = ""
    sent: bool = True


@dataclass(frozen=True)
class Arch:
    """One architecture.

    `area` is the size of IPKDB's register area in bytes. `breakpoint` is the instruction that is written over code. At
    a breakpoint, the kernel reports a program counter that is `past_break` bytes after the breakpoint's address. Every
    stop reply contains the registers `shown`, so that GDB needn't request them.
    """

    name: str
    gdb_name: str
    byte_order: Literal["little", "big"]
    registers: tuple[Register, ...]
    area: int
    pc: str
    breakpoint: bytes
    past_break: int
    shown: tuple[str, ...]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {register.name: number for number, register in enumerate(self.registers)}

    @cached_property
    def _offsets(self) -> list[int]:
        sizes = [register.size if register.sent else 0 for register in self.registers]
        return [0, *accumulate(sizes)]

    def number(self, name: str) -> int:
        """GDB's number of the register `name`. KeyError when there is none."""
        return self._numbers[name]

    def offset(self, number: int) -> int | None:
        """The offset of register `number` in the area, in bytes; None when IPKDB doesn't send it."""
        return self._offsets[number] if self.registers[number].sent else None

    def value(self, area: bytes, number: int) -> bytes | None:
        """The value of register `number` in `area`, in the target's byte order; None when IPKDB doesn't send it."""
        start = self.offset(number)
        return None if start is None else area[start : start + self.registers[number].size]

    def with_value(self, area: bytes, number: int, value: bytes) -> bytes:
        """`area` with `value` in register `number`. ValueError when IPKDB doesn't send it, or for a wrong size."""
        start = self.offset(number)
        if start is None or len(value) != self.registers[number].size:
            raise ValueError(f"{self.registers[number].name} can't be set to {len(value)} bytes")
        return area[:start] + value + area[start + len(value) :]

    def counter(self, area: bytes) -> int:
        """The program counter in `area`."""
        value = self.value(area, self.number(self.pc)) or b""
        return int.from_bytes(value, self.byte_order)

    def with_counter(self, area: bytes, address: int) -> bytes:
        value = (address % 2**32).to_bytes(WORD_SIZE, self.byte_order)
        return self.with_value(area, self.number(self.pc), value)

    def description(self) -> str:
        """The target description, an XML document."""
        return "\n".join(
            (
                '<?xml version="1.0"?>',
                '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
                '<target version="1.0">',
                f"<architecture>{self.gdb_name}</architecture>",
                *self._features(),
                "</target>",
                "",
            )
        )

    def _features(self) -> Iterator[str]:
        for feature in dict.fromkeys(register.feature for register in self.registers):
            yield f"<feature name={quoteattr(feature)}>"
            for number, register in enumerate(self.registers):
                if register.feature == feature:
                    size, name, kind = register.size * 8, quoteattr(register.name), quoteattr(register.type)
                    yield f'<reg name={name} bitsize="{size}" type={kind} regnum="{number}"/>'
            yield "</feature>"


def named(names: str, feature: str, **kinds: str) -> tuple[Register, ...]:
    """Registers of one word, of `feature`; `kinds` maps a register's name to its type, if that isn't int."""
    return tuple(Register(name, WORD_SIZE, kinds.get(name, "int"), feature) for name in names.split())


I386_CORE = "org.gnu.gdb.i386.core"
I386 = Arch(
    name="i386",
    gdb_name="i386",
    byte_order="little",
    registers=(
        *named(
            "eax ecx edx ebx esp ebp esi edi eip eflags cs ss ds es fs gs",
            I386_CORE,
            esp="data_ptr",
            ebp="data_ptr",
            eip="code_ptr",
        ),
        # GDB requires FPU registers of an i386; IPKDB doesn't send them.
        *(Register(f"st{number}", 10, "i387_ext", I386_CORE, False) for number in range(8)),
        *(
            Register(name, WORD_SIZE, "int", I386_CORE, False)
            for name in ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
        ),
    ),
    area=16 * WORD_SIZE,
    pc="eip",
    breakpoint=b"\xcc",
    past_break=1,
    shown=("eip", "esp", "ebp"),
)

POWER_CORE = "org.gnu.gdb.power.core"
POWER_FPU = "org.gnu.gdb.power.fpu"
POWERPC = Arch(
    name="powerpc",
    gdb_name="powerpc:common",
    byte_order="big",
    registers=(
        *named(" ".join(f"r{number}" for number in range(32)), POWER_CORE),
        *(Register(f"f{number}", 8, "ieee_double", POWER_FPU) for number in range(32)),
        *named("pc msr cr lr ctr xer", POWER_CORE, pc="code_ptr", lr="code_ptr"),
        Register("fpscr", WORD_SIZE, "int", POWER_FPU, False),
    ),
    # Three words more than the registers need: NetBSD uses the size of the register table in GDB at that time.
    area=105 * WORD_SIZE,
    pc="pc",
    breakpoint=bytes.fromhex("7fe00008"),
    past_break=0,
    shown=("pc", "r1"),
)

ARM = Arch(
    name="arm",
    gdb_name="arm",
    byte_order="little",
    registers=(
        *named(
            " ".join(f"r{number}" for number in range(13)) + " sp lr pc cpsr",
            "org.gnu.gdb.arm.core",
            sp="data_ptr",
            pc="code_ptr",
        ),
        *named("spsr", "org.netbsd.ipkdb"),
    ),
    area=18 * WORD_SIZE,
    pc="pc",
    # An undefined instruction that NetBSD's IPKDB code recognises. The kernel itself sets pc back to its address.
    breakpoint=bytes.fromhex("110000e6"),
    past_break=0,
    shown=("sp", "pc"),
)

ARCHES = {arch.name: arch for arch in (I386, POWERPC, ARM)}
