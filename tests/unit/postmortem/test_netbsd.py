"""Dumps of a NetBSD/amd64 kernel with SVS, made by hand: a processor in user mode has tables without the kernel."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.labfixture import host_tool
from support.staging import command

from rumplab.postmortem import core, cpu, debugger, dump, elf
from rumplab.postmortem.paging import CR0_PAGING, CR4_FIVE, CR4_PAE, LARGE, PAGE, PRESENT
from rumplab.postmortem.record import Record

MIB = 1 << 20
SIZE = 8 * MIB
KERNEL_BASE = 0xFFFF_FFFF_8020_0000
PROGRAM = "long marker[512] = {4711, 4712}; unsigned long PDPpaddr = TABLES; void _start(void) { for (;;); }"
FLAGS = ("-g", "-nostdlib", "-static", "-ffreestanding", "-mcmodel=kernel", "-fno-pie", "-no-pie", "-Wl,-z,norelro")
# Physical addresses.
KERNEL_TABLES, USER_TABLES, PROCESSOR, INTERRUPTS, USER_PAGE = (4 * MIB + at * 16 * PAGE for at in range(5))
USER_ADDRESS = 0x40_0000
NEWER, OLDER = 0xFFFF_FF00_0000_0000, 0xFFFF_C000_0000_0000


class Machine:
    """The memory of a machine whose only processor runs a program."""

    def __init__(self, kernel: Path, levels: int = 4, area: int = NEWER) -> None:
        self.memory = bytearray(SIZE)
        self._levels, self._area = levels, area
        self.processor_page = True
        found = elf.read(str(kernel))
        for segment in found.loads():
            at = segment.virtual & 0x0FFF_FFFF
            if segment.virtual >= KERNEL_BASE:
                self.memory[at : at + segment.size] = found.data[segment.offset : segment.offset + segment.size]
        self.put(PROCESSOR, KERNEL_TABLES)
        self.put(USER_PAGE, 0x1234)
        self._used = {KERNEL_TABLES: 0, USER_TABLES: 0}
        self.map(KERNEL_TABLES, KERNEL_BASE, 2 * MIB, large=True)
        for tables in (KERNEL_TABLES, USER_TABLES):
            self.map(tables, area + 4 * PAGE, INTERRUPTS)
            self.map(tables, USER_ADDRESS, USER_PAGE)

    def put(self, at: int, value: int) -> None:
        struct.pack_into("<Q", self.memory, at, value)

    def map(self, tables: int, virtual: int, physical: int, large: bool = False) -> None:
        table = tables
        for level in range(self._levels, 1 + large, -1):
            at = table + (virtual >> (3 + 9 * level) & 511) * 8
            entry = int.from_bytes(self.memory[at : at + 8], "little")
            if not entry:
                self._used[tables] += 1
                entry = tables + self._used[tables] * PAGE | PRESENT
                self.put(at, entry)
            table = entry & ~(PAGE - 1)
        at = table + (virtual >> (12 + 9 * large) & 511) * 8
        self.put(at, physical | PRESENT | (LARGE if large else 0))

    def dump(self, path: Path, program: Path | None) -> Record:
        """Writes the dump as QEMU does, and has rumplab finish it."""
        if self.processor_page:
            self.map(USER_TABLES, self._area, PROCESSOR)
        general = dict.fromkeys(cpu.GENERAL, 0)
        general["rip"] = USER_ADDRESS
        segments = [value for name in cpu.SEGMENTS for value in (
            0x47 if name == "cs" else 0, 0, 0, 0, self._area + 4 * PAGE if name == "idt" else 0)]  # fmt: skip
        four = CR4_PAE | (CR4_FIVE if self._levels == 5 else 0)
        # The lowest bits of CR3 are the number of the address space.
        control = (CR0_PAGING | 1, 0, 0, USER_TABLES | 3, four)
        state = cpu.FORMAT.pack(1, cpu.FORMAT.size, *general.values(), *segments, *control)
        note = elf.note_bytes(elf.Note(cpu.QEMU, 0, state))
        headers = 64 + 2 * 56
        load = elf.Segment(elf.PT_LOAD, headers + len(note), 0, 0, SIZE)
        content = elf.core_header(True, elf.EM_X86_64, 64, 2)
        content += elf.segment_bytes(elf.Segment(elf.PT_NOTE, headers, 0, 0, len(note)), True)
        path.write_bytes(content + elf.segment_bytes(load, True) + note + self.memory)
        with path.open("r+b") as file:
            return dump.finish(file.fileno(), Record("nb", program=str(program) if program else None))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Returns a kernel whose variable PDPpaddr has a value."""
    command("gcc")

    def build(tables: int) -> Path:
        path = tmp_path_factory.mktemp("kernel") / "netbsd"
        text = PROGRAM.replace("TABLES", hex(tables))
        argv = [command("gcc"), *FLAGS, "-x", "c", f"-Wl,-Ttext={KERNEL_BASE:#x}", "-o", str(path), "-"]
        subprocess.run(argv, input=text, text=True, check=True, timeout=60)
        return path

    return build


@pytest.fixture(scope="module")
def kernel(built: Callable[[int], Path]) -> Path:
    return built(KERNEL_TABLES)


def marker(path: Path, kernel: Path) -> bytes | None:
    """Returns the first words of the kernel's variable `marker` in the dump."""
    with core.opened(path) as opened:
        assert opened.read(USER_ADDRESS, 2) == b"\x34\x12"
        return opened.read(elf.read(str(kernel)).symbols(["marker"])["marker"], 16)


EXPECTED = struct.pack("<QQ", 4711, 4712)


@pytest.mark.parametrize("area", [NEWER, OLDER])
@pytest.mark.parametrize("symbols", [False, True])
@pytest.mark.parametrize("page", [False, True])
def test_the_kernel_is_found_from_a_program_by_symbols_or_by_the_processors_page(
    out: Path, kernel: Path, area: int, symbols: bool, page: bool
) -> None:
    machine = Machine(kernel, area=area)
    machine.processor_page = page
    record = machine.dump(out / "nb.core", kernel if symbols else None)
    assert record.virtual and not record.cut
    assert marker(out / "nb.core", kernel) == (EXPECTED if symbols or page else None)


def test_tables_of_five_levels_are_followed_too(out: Path, kernel: Path) -> None:
    Machine(kernel, levels=5).dump(out / "nb.core", kernel)
    assert marker(out / "nb.core", kernel) == EXPECTED


@pytest.mark.parametrize("wrong", [0, 1, PAGE + 8, 1 << 40, USER_PAGE, SIZE - PAGE, 2 * MIB])
def test_a_value_that_is_no_table_of_this_kernel_is_not_followed(
    out: Path, built: Callable[[int], Path], wrong: int
) -> None:
    other = built(wrong)
    machine = Machine(other)
    machine.put(PROCESSOR, wrong)
    assert not machine.dump(out / "nb.core", other).cut
    assert marker(out / "nb.core", other) is None


def test_the_tables_of_another_kernel_are_not_followed(out: Path, kernel: Path) -> None:
    machine = Machine(kernel)
    # Its interrupt table is at the same address, but it is another one.
    machine.map(KERNEL_TABLES, NEWER + 4 * PAGE, INTERRUPTS + PAGE)
    machine.dump(out / "nb.core", kernel)
    assert marker(out / "nb.core", kernel) is None


def test_gdb_prints_the_kernels_variables(out: Path, kernel: Path) -> None:
    Machine(kernel).dump(out / "nb.core", kernel)
    with core.opened(out / "nb.core") as opened:
        commands = debugger.commands(opened, str(kernel), None)
    argv = [host_tool("gdb"), "-nx", "-batch"]
    for one in [*commands, "print marker[1]", f"print *(short *) {USER_ADDRESS}", "print/x PDPpaddr"]:
        argv += ["-ex", one]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert [line.partition(" = ")[2] for line in shown.stdout.splitlines() if line.startswith("$")] == [
        "4712",
        str(0x1234),
        hex(KERNEL_TABLES),
    ], shown.stderr
