"""Opens a dump, and finds the program whose symbols match it."""

from __future__ import annotations

import contextlib
import gzip
import mmap
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rumplab.errors import RumplabError
from rumplab.gdb import command_line
from rumplab.guest.definition import open_guests
from rumplab.host import regular
from rumplab.host.files import sha256
from rumplab.lab.config import Lab
from rumplab.machine.registry import open_machines
from rumplab.postmortem import cpu, elf, vmcoreinfo
from rumplab.postmortem import record as records
from rumplab.postmortem.cpu import Cpu
from rumplab.postmortem.elf import Elf
from rumplab.postmortem.record import Record

GZIP = b"\x1f\x8b"
PIECE = 1 << 20
# Some releases of GDB parse the argument of 'core-file' as a shell does, others don't. All read these names alike.
PLAIN = re.compile(r"[A-Za-z0-9_./+,:@%=-]+")
# The number of bytes of a program's code that are compared with the dump's memory.
COMPARED = 1 << 16
# The share that must be equal. A kernel patches some of its own code; two different programs have less in common.
ENOUGH = 0.5


@dataclass(frozen=True)
class Core:
    """A dump. `path` is what a debugger opens. If that is a path in /dev/fd, the debugger must inherit the descriptor
    `handle`. `record` is None if another program wrote the dump."""

    path: str
    handle: int | None
    elf: Elf
    record: Record | None
    cpus: tuple[Cpu, ...]
    # The difference of the kernel's address to the address in its symbols, in bytes.
    offset: int = 0

    def read(self, virtual: int, size: int) -> bytes | None:
        """Returns the `size` bytes at the address `virtual`; None if they aren't in one segment."""
        for segment in self.elf.loads():
            if segment.virtual <= virtual and virtual + size <= segment.virtual + segment.size:
                at = segment.offset + virtual - segment.virtual
                return bytes(self.elf.data[at : at + size])
        return None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Core]:
    """Yields the dump at `path`; unpacks a compressed one. RumplabError if the file isn't a dump, or isn't complete."""
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(regular.opened(path))
            packed = os.pread(stream.fileno(), len(GZIP), 0) == GZIP
            if packed:
                stream = stack.enter_context(unpacked(stream))
            name, handle = os.path.abspath(path), None
            if packed or not PLAIN.fullmatch(name):
                handle = stream.fileno()
                name = f"/dev/fd/{handle}"
            yield parsed(path, stream, name, handle)
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise RumplabError(f"{path} is cut short or damaged ({error}); dump the machine again") from error


def unpacked(packed: BinaryIO) -> BinaryIO:
    """Returns a temporary file without a name, with the unpacked content of `packed`. Zeros become holes."""
    # The caller closes it.
    target = tempfile.TemporaryFile(prefix="rumplab-core-")  # noqa: SIM115
    with gzip.open(packed, "rb") as stream:
        while piece := stream.read(PIECE):
            if piece.count(0) < len(piece):
                target.write(piece)
            else:
                target.seek(len(piece), os.SEEK_CUR)
    target.truncate()
    target.flush()
    return target


def parsed(path: Path, stream: BinaryIO, name: str, handle: int | None) -> Core:
    """Returns the dump in `stream`. RumplabError, with `path`, if it isn't a complete dump of an x86 machine."""
    if os.fstat(stream.fileno()).st_size == 0:
        raise RumplabError(f"{path} is empty; dump the machine again: rumplab dump NAME -o FILE")
    data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        found = elf.parse(data)
        if found.kind != elf.ET_CORE:
            raise elf.InvalidElf("is a program, not a core")
        if found.machine not in (elf.EM_386, elf.EM_X86_64):
            raise elf.InvalidElf("is a core of a processor that is not x86")
        if found.missing():
            raise elf.InvalidElf(f"is cut short: its last {found.missing()} bytes are missing")
        notes = found.notes()
    except elf.InvalidElf as error:
        raise RumplabError(f"{path} {error}; make a dump with: rumplab dump NAME -o FILE") from error
    try:
        return Core(name, handle, found, records.find(notes), tuple(cpu.read(notes)), vmcoreinfo.offset(notes))
    except RumplabError as error:
        raise RumplabError(f"{path}: {error}") from error


def symbols(core: Core, lab: Lab, shown: Path, given: str | None) -> str | None:
    """Returns the program whose symbols match the dump at `shown`: the `given` one, or one with the hash in the dump's
    record. None, with a warning on stderr, if there is none. RumplabError if the `given` one is another program."""
    record = core.record
    if given is not None:
        program = os.path.abspath(given)
        if record is None or not record.program_sha256 or sha256(program) != record.program_sha256:
            check(core, shown, program)
        return program
    if record is None or record.program is None:
        command_line.warn(f"{shown} names no program, so there are no symbols; give one with --symbols FILE")
        return None
    for candidate in candidates(record, lab, shown):
        if os.path.isfile(candidate) and os.path.getsize(candidate) == record.program_size:
            with contextlib.suppress(OSError):
                if sha256(candidate) == record.program_sha256:
                    return candidate
    command_line.warn(
        f"{record.program} has changed or was removed since the dump, and rumplab knows no other file with the hash"
        f" {record.program_sha256[:16]}…, so there are no symbols; give them with --symbols FILE"
    )
    return None


def candidates(record: Record, lab: Lab, shown: Path) -> Iterator[str]:
    """Yields the paths where the program may be: its old one, the dump's directory, the current directory, and the
    files of the lab's components, of the user's machines and guests."""
    program = record.program or ""
    name = os.path.basename(program)
    yield from (program, str(shown.absolute().parent / name), os.path.abspath(name))
    yield from (path for component in lab.components() for path in component.paths.values())
    machines: Iterable[str | None] = (machine.program for machine in open_machines(lab).all())
    guests = open_guests(lab).all(lambda _: None)
    files = (file for guest in guests for file in (guest.symbols, guest.kernel))
    yield from (path for path in (*machines, *files) if path)


def check(core: Core, shown: Path, program: str) -> None:
    """Raises RumplabError if the code of `program` differs from the dump's memory at its addresses."""
    try:
        found = elf.read(program)
    except elf.InvalidElf as error:
        raise RumplabError(f"{program} {error}, so it has no symbols to load") from error
    share = agreement(core, found)
    if share is None:
        command_line.warn(f"{shown} has no memory where the code of {program} belongs, so the symbols may not match")
    elif share < ENOUGH:
        raise RumplabError(
            f"{program} is not the program of {shown}: {100 * share:.0f} % of its code is in the dump's memory; give"
            " the right one with --symbols FILE"
            + (f", such as {core.record.program}" if core.record and core.record.program else "")
        )


def agreement(core: Core, program: Elf) -> float | None:
    """Returns which share of the program's code is in the dump's memory at its address, from 0 to 1. None if the
    program has no code, or the memory there is zero. Compares the beginning of the largest section only: a kernel
    reuses the memory of its other ones, such as the code of its start."""
    largest = max(program.code(), key=lambda section: section.size, default=None)
    if largest is None:
        return None
    size = min(largest.size, COMPARED)
    here = bytes(program.data[largest.offset : largest.offset + size])
    there = core.read(largest.address + core.offset, size)
    if not there or not any(there):
        return None
    return sum(one == other for one, other in zip(here, there)) / size
