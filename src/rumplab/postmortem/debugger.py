"""The GDB commands that open a dump."""

from __future__ import annotations

import contextlib

from rumplab.errors import RumplabError
from rumplab.gdb import kgdb_commands
from rumplab.gdb.command_line import attached, gdb_quote
from rumplab.guest.definition import LINUX, NETBSD
from rumplab.postmortem import elf
from rumplab.postmortem.core import Core

ARCHITECTURES = {elf.EM_386: "i386", elf.EM_X86_64: "i386:x86-64"}
# GDB derives the layout of registers in a core from the OS ABI. QEMU writes Linux's layout for every guest.
SYSTEM = "GNU/Linux"
CONTROL = (0, 2, 3, 4)
HELPERS = {NETBSD: kgdb_commands.HELPERS, LINUX: kgdb_commands.LINUX_HELPERS}
# A variable of each kernel that the other one lacks.
KINDS = {"linux_banner": LINUX, "allproc": NETBSD}


def commands(core: Core, program: str | None, sources: str | None) -> list[str]:
    """Returns the commands that open the dump with the symbols of `program`, or end GDB if that fails. `sources` is the
    source directory, if it isn't where the symbols say."""
    record = core.record
    found = [f"set architecture {ARCHITECTURES[core.elf.machine]}", f"set osabi {SYSTEM}"]
    found += [symbols(program, core.offset)] if program else []
    found += [f"directory {gdb_quote(sources)}"] if sources else []
    if record and record.sources and record.source_name:
        found.append(f"set substitute-path {gdb_quote(record.source_name)} {gdb_quote(record.sources)}")
    found += attached(f"core-file {core.path}")
    if core.cpus:
        found += [f"set $cr{number} = {core.cpus[0].control[number]:#x}" for number in CONTROL]
    found += [f"set $physical = {record.window:#x}"] if record and record.window else []
    return [*found, *(f"source {path}" for path in files(core, program))]


def files(core: Core, program: str | None) -> list[str]:
    """Returns the files with GDB commands for the kernel in the dump. If its record has no kind, the symbols of
    `program` decide."""
    kind = core.record.kind if core.record else ""
    if not kind and program:
        with contextlib.suppress(OSError, elf.InvalidElf, RumplabError):
            known = elf.read(program).symbols(KINDS)
            kind = next((of for symbol, of in KINDS.items() if symbol in known), "")
    return [str(HELPERS[kind])] if kind in HELPERS else []


def symbols(program: str, offset: int) -> str:
    """Returns the command that loads the symbols of `program`, moved by `offset` bytes. An offset needs GDB 8.3."""
    return f"symbol-file -o {offset:#x} {gdb_quote(program)}" if offset else f"file {gdb_quote(program)}"
