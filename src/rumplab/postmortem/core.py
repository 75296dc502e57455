"""A dump that is looked at: what it says, and the program whose symbols fit it."""

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
# Some GDBs take what follows 'core-file' as it is, others as a shell would; of these names they agree.
PLAIN = re.compile(r"[A-Za-z0-9_./+,:@%=-]+")
# Of a program's code, as much as is compared with the memory.
COMPARED = 1 << 16
# A kernel patches its own code, here and there; that of another program agrees by chance only.
ENOUGH = 0.5


@dataclass(frozen=True)
class Core:
    """A dump. `path` is what a debugger opens, and `handle` the open file that it is, where no name will do; `record`
    is None where another program has made it."""

    path: str
    handle: int | None
    elf: Elf
    record: Record | None
    cpus: tuple[Cpu, ...]
    # By how much a kernel is elsewhere than its symbols say.
    offset: int = 0

    def read(self, virtual: int, size: int) -> bytes | None:
        """`size` bytes at `virtual`, if they are in one segment."""
        for segment in self.elf.loads():
            if segment.virtual <= virtual and virtual + size <= segment.virtual + segment.size:
                at = segment.offset + virtual - segment.virtual
                return bytes(self.elf.data[at : at + size])
        return None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Core]:
    """The dump at `path`, unpacked if it is compressed. RumplabError for what is none, or not whole."""
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
            yield understood(path, stream, name, handle)
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise RumplabError(f"{path} is cut short or damaged ({error}); dump the machine again") from error


def unpacked(packed: BinaryIO) -> BinaryIO:
    """A file without a name that has what is in `packed`; what is zero takes no room."""
    # Closed by who gets it.
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


def understood(path: Path, stream: BinaryIO, name: str, handle: int | None) -> Core:
    if os.fstat(stream.fileno()).st_size == 0:
        raise RumplabError(f"{path} is empty, so no dump; dump the machine again: rumplab dump NAME -o FILE")
    data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        found = elf.parse(data)
        if found.kind != elf.ET_CORE:
            raise elf.Unfit("is a program, not a core")
        if found.machine not in (elf.EM_386, elf.EM_X86_64):
            raise elf.Unfit("is a core of another kind of processor")
        if found.missing():
            raise elf.Unfit(f"is cut short: its last {found.missing()} bytes are missing")
        notes = found.notes()
    except elf.Unfit as error:
        raise RumplabError(f"{path} {error}; a dump is made by: rumplab dump NAME -o FILE") from error
    try:
        return Core(name, handle, found, records.find(notes), tuple(cpu.read(notes)), vmcoreinfo.offset(notes))
    except RumplabError as error:
        raise RumplabError(f"{path}: {error}") from error


def symbols(core: Core, lab: Lab, shown: Path, given: str | None) -> str | None:
    """The program whose symbols fit the dump `shown`: the one `given`, if its code is what the dump has in memory, else
    one that has the hash that the dump names. RumplabError for one given that doesn't fit; None, and words on stderr,
    where there is none."""
    record = core.record
    if given is not None:
        program = os.path.abspath(given)
        if record is None or not record.program_sha256 or sha256(program) != record.program_sha256:
            check(core, shown, program)
        return program
    if record is None or record.program is None:
        command_line.warn(f"{shown} names no program, so there are no symbols; give them with --symbols FILE")
        return None
    for candidate in candidates(record, lab, shown):
        if os.path.isfile(candidate) and os.path.getsize(candidate) == record.program_size:
            with contextlib.suppress(OSError):
                if sha256(candidate) == record.program_sha256:
                    return candidate
    command_line.warn(
        f"{record.program} is gone or has changed since the dump, and no file that could be it has the hash"
        f" {record.program_sha256[:16]}…, so there are no symbols; give them with --symbols FILE"
    )
    return None


def candidates(record: Record, lab: Lab, shown: Path) -> Iterator[str]:
    """Where the program may be: where it was, beside the dump, here, and among what this lab knows."""
    program = record.program or ""
    name = os.path.basename(program)
    yield from (program, str(shown.absolute().parent / name), os.path.abspath(name))
    yield from (path for component in lab.components() for path in component.paths.values())
    machines: Iterable[str | None] = (machine.program for machine in open_machines(lab).all())
    guests = open_guests(lab).all(lambda _: None)
    files = (file for guest in guests for file in (guest.symbols, guest.kernel))
    yield from (path for path in (*machines, *files) if path)


def check(core: Core, shown: Path, program: str) -> None:
    """RumplabError where the code of `program` isn't what the dump has at its addresses."""
    try:
        found = elf.read(program)
    except elf.Unfit as error:
        raise RumplabError(f"{program} {error}, so it has no symbols to load") from error
    share = agreement(core, found)
    if share is None:
        command_line.warn(f"whether {program} is what ran can't be told: {shown} has nothing where its code belongs")
    elif share < ENOUGH:
        raise RumplabError(
            f"{program} isn't the program that {shown} is of: {100 * share:.0f} % of its code is in the dump's memory"
            + (f"; that was {core.record.program}" if core.record and core.record.program else "")
        )


def agreement(core: Core, program: Elf) -> float | None:
    """How much of the beginning of the program's largest part is in memory where it belongs, from 0 to 1; None where
    nothing is there yet, or it has no code. Others may be gone: a kernel uses the memory of its start again."""
    largest = max(program.code(), key=lambda section: section.size, default=None)
    if largest is None:
        return None
    size = min(largest.size, COMPARED)
    here = bytes(program.data[largest.offset : largest.offset + size])
    there = core.read(largest.address + core.offset, size)
    if not there or not any(there):
        return None
    return sum(one == other for one, other in zip(here, there)) / size
