"""Making a dump of a machine: an ELF core of its memory and registers, whose addresses are the guest's own.

QEMU writes physical memory, to a pipe, while the machine stands still; what is zero becomes a hole of the file. Behind
that, new headers and notes are put: segments at the virtual addresses that the guest's page tables have for the memory,
and a note that says what the machine was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import mmap
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import files
from rumplab.host.answers import MALFORMED
from rumplab.machine import qmp
from rumplab.machine.registry import Machine
from rumplab.postmortem import cpu, elf, paging, vmcoreinfo
from rumplab.postmortem import record as records
from rumplab.postmortem.elf import Elf, Note, Segment
from rumplab.postmortem.paging import PAGE, Run
from rumplab.postmortem.record import Record

DESCRIPTOR = "rumplab-dump"
# A machine on a slow disk under load; for every GIB of memory, as long again.
SECONDS = 30.0
ANSWER_SECONDS = 5.0
GIB = 1 << 30
PIECE = 1 << 20
BLOCK = 1 << 16
ZEROS = bytes(BLOCK)
# No processor translates such an address, so that it is nobody's: bit 62 isn't the sign.
WINDOW = 1 << 62
QUICKEST = 1
# Linux's F_SETPIPE_SZ, which Python names from 3.10 on; other systems don't know it.
SET_PIPE_SIZE = 1031


@dataclass(frozen=True)
class Dumped:
    """What came of it: the file's size, the bytes that it takes, and what it says."""

    record: Record
    size: int
    taken: int


class Sink(threading.Thread):
    """Writes what comes through a pipe to a file. What is zero takes no room."""

    def __init__(self, pipe: int, target: int) -> None:
        super().__init__(daemon=True)
        self._pipe, self._target = pipe, target
        self.size = 0
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            while piece := os.read(self._pipe, PIECE):
                self._write(piece)
            os.ftruncate(self._target, self.size)
        except OSError as error:
            self.error = error
        finally:
            # QEMU's next write fails then, and it says so.
            os.close(self._pipe)

    def _write(self, piece: bytes) -> None:
        for at in range(0, len(piece), BLOCK):
            block = piece[at : at + BLOCK]
            if block != ZEROS[: len(block)]:
                written = 0
                while written < len(block):
                    written += os.pwrite(self._target, block[written:], self.size + written)
            self.size += len(block)


def write(
    machine: Machine, wanted: Record, output: Path, compress: bool = False, session: qmp.Session | None = None
) -> Dumped:
    """Dumps `machine` to `output`, which appears when it is whole. `wanted` is what is known of the machine before.
    `session` is a connection to it, if there is one. RumplabError when QEMU refuses, or the file can't be written."""
    directory = output.parent
    files.sweep(directory)
    with files.temporary_file(directory) as temporary:
        temporary.chmod(0o600)
        with told(output), temporary.open("r+b") as target:
            state = from_qemu(machine, target.fileno(), session)
            said = replace(wanted, state=state, time=time.time())
            said = finish(target.fileno(), said)
        final = temporary
        with told(output), contextlib.ExitStack() as stack:
            if compress:
                final = stack.enter_context(files.temporary_file(directory))
                final.chmod(0o600)
                pack(temporary, final)
            status = final.stat()
            final.replace(output)
    return Dumped(said, status.st_size, status.st_blocks * 512)


@contextlib.contextmanager
def told(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "free some space there, or choose another place with -o"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "choose another place with -o"
        raise RumplabError(f"cannot write {output}: {error.strerror}; {remedy}") from error


def from_qemu(machine: Machine, target: int, session: qmp.Session | None) -> str:
    """Has QEMU write its memory to the open file `target`; the machine's run state. OSError when that can't be
    written."""
    try:
        with contextlib.ExitStack() as stack:
            if session is None:
                session = stack.enter_context(qmp.Session(machine.socket, ANSWER_SECONDS))
            memory = session.execute("query-memory-size-summary")["base-memory"]
            state = session.status()
            sink = received(machine, session, target, SECONDS * (1 + memory / GIB))
    except MALFORMED as error:
        raise RumplabError(f"{machine.name} answers in a form that isn't known: {error}") from error
    except qmp.QmpError as error:
        raise RumplabError(f"{machine.name} can't be dumped: {error}; look at it with: rumplab ps") from error
    if sink.is_alive():
        raise RumplabError(f"{machine.name} has not written its memory to the end; try again")
    if sink.error:
        raise sink.error
    if not sink.size:
        raise RumplabError(f"QEMU has written a dump of 0 bytes of {machine.name}; try again")
    return state


def received(machine: Machine, session: qmp.Session, target: int, seconds: float) -> Sink:
    """What QEMU has written to the open file `target` within `seconds`."""
    taking, giving = os.pipe()
    with contextlib.suppress(OSError):
        # QEMU writes page by page: in a larger pipe, each of the two waits less often for the other one.
        fcntl.fcntl(giving, SET_PIPE_SIZE, PIECE)
    sink = Sink(taking, target)
    sink.start()
    try:
        session.give(DESCRIPTOR, giving)
        os.close(giving)
        giving = -1
        arguments = {"paging": False, "protocol": f"fd:{DESCRIPTOR}"}
        session.execute("dump-guest-memory", arguments, seconds)
    except qmp.Refused as error:
        with contextlib.suppress(qmp.QmpError):
            # What it hasn't taken is still open there.
            session.execute("closefd", {"fdname": DESCRIPTOR})
        sink.join(SECONDS)
        raise sink.error or refusal(machine, error) from error
    finally:
        if giving >= 0:
            os.close(giving)
    sink.join(SECONDS)
    return sink


def refusal(machine: Machine, error: Exception) -> RumplabError:
    return RumplabError(f"QEMU does not dump {machine.name}: {error}")


def finish(target: int, record: Record) -> Record:
    """Makes QEMU's dump in the open file `target` one that says where the guest sees its memory, and what it was."""
    # Not closed here: as long as anything looks into it, it couldn't be.
    data = memoryview(mmap.mmap(target, 0, access=mmap.ACCESS_READ))
    made = Made(data, record)
    for offset, content in ((len(data), made.trailer(len(data))), (0, made.header(len(data)))):
        os.pwrite(target, content, offset)
    return made.record


class Made:
    """The headers of a core, made of QEMU's dump `data`."""

    def __init__(self, data: memoryview, record: Record) -> None:
        self._data = data
        try:
            self._dump = elf.parse(data)
            self._notes = self._dump.notes()
            self._cpus = cpu.read(self._notes)
        except (elf.Unfit, *MALFORMED) as error:
            raise RumplabError(f"QEMU has written a dump that isn't one ({error}); try again") from error
        if not self._cpus or self._dump.missing():
            raise RumplabError("QEMU has written a dump that is not whole; try again")
        symbols = open_symbols(record.program)
        self._long = self._dump.machine == elf.EM_X86_64
        # Before it has reached long mode, a 64-bit program's registers are still of its own kind.
        self._wide = self._long or (symbols is not None and symbols.machine == elf.EM_X86_64)
        mode = paging.mode(self._cpus[0].cr0, self._cpus[0].cr4, self._long)
        self._runs, cut = self._mapped(mode) if mode else ([], False)
        self._info = self._described(symbols, mode)
        if mode and self._info:
            table = vmcoreinfo.kernel_tables(self._info)
            if table is not None:
                own = paging.Walk(self._page, mode).from_root(table)
                self._runs, cut = paging.joined(self._runs, own.runs), cut or own.cut
        self.record = replace(record, virtual=mode is not None, cut=cut, window=WINDOW if mode and self._wide else 0)
        self._segments = self._placed(mode is not None)

    def _mapped(self, mode: paging.Mode) -> tuple[list[Run], bool]:
        """What the processors' tables map, the first one's first; whether there is more."""
        runs: list[Run] = []
        cut = False
        for root in dict.fromkeys(one.cr3 for one in self._cpus):
            walk = paging.Walk(self._page, mode).from_root(root)
            runs, cut = paging.joined(runs, walk.runs), cut or walk.cut
        return runs, cut

    def _page(self, physical: int) -> memoryview | None:
        """The page of memory at `physical`."""
        for segment in self._dump.loads():
            if segment.physical <= physical and physical + PAGE <= segment.physical + segment.size:
                at = segment.offset + physical - segment.physical
                return memoryview(bytes(self._data[at : at + PAGE]))
        return None

    def read(self, virtual: int, size: int) -> bytes | None:
        """Memory as the guest sees it, if it is in one piece."""
        for run in self._runs:
            if run.virtual <= virtual and virtual + size <= run.end:
                return self._physical(run.physical + virtual - run.virtual, size)
        return None

    def _physical(self, physical: int, size: int) -> bytes | None:
        for segment in self._dump.loads():
            at = physical - segment.physical
            if at >= 0 and at + size <= segment.size:
                return bytes(self._data[segment.offset + at : segment.offset + at + size])
        return None

    def _described(self, symbols: Elf | None, mode: paging.Mode | None) -> bytes | None:
        """Linux's description of itself, where it is one; None where QEMU has noted it already."""
        if mode is None or any(note.owner == vmcoreinfo.OWNER for note in self._notes):
            return None
        made = vmcoreinfo.made(symbols, self.read) if symbols else None
        ranges = [(one.offset, one.physical, one.size) for one in self._dump.loads()]
        # A kernel that isn't where its symbols say, or whose symbols aren't here, may have one all the same.
        return vmcoreinfo.find(self._data, ranges) or made

    def _placed(self, virtual: bool) -> list[Segment]:
        """The segments of memory: where the guest sees it, and where it physically is."""
        loads = self._dump.loads()
        if not virtual:
            return loads
        seen = [piece for run in self._runs for one in loads for piece in in_file(run, one)]
        seen = seen[: elf.MOST_SEGMENTS - len(loads) - 1]
        if not self._wide:
            return seen
        return seen + [replace(one, virtual=WINDOW + one.physical) for one in loads]

    def _all_notes(self) -> list[Note]:
        kept = [note for note in self._notes if note.owner != cpu.CORE] if self._wide else self._notes
        status = [cpu.status_note(one, number) for number, one in enumerate(self._cpus, 1)] if self._wide else []
        said = [vmcoreinfo.note(self._info)] if self._info else []
        return [*status, *kept, *said, records.note(self.record)]

    def _note_bytes(self) -> bytes:
        return b"".join(map(elf.note_bytes, self._all_notes()))

    def trailer(self, at: int) -> bytes:
        """The notes and program headers, which are to be at `at` of the file."""
        notes = self._note_bytes()
        segments = [Segment(elf.PT_NOTE, at, 0, 0, len(notes)), *self._segments]
        return notes + b"".join(elf.segment_bytes(segment, self._wide) for segment in segments)

    def header(self, at: int) -> bytes:
        machine = elf.EM_X86_64 if self._wide else elf.EM_386
        return elf.core_header(self._wide, machine, at + len(self._note_bytes()), 1 + len(self._segments))


def in_file(run: Run, segment: Segment) -> Iterator[Segment]:
    """The part of `run` that the `segment` of physical memory has, as a segment of its own."""
    start = max(run.physical, segment.physical)
    end = min(run.physical + run.size, segment.physical + segment.size)
    if start < end:
        offset = segment.offset + start - segment.physical
        yield Segment(elf.PT_LOAD, offset, run.virtual + start - run.physical, start, end - start)


def open_symbols(program: str | None) -> Elf | None:
    """The program's ELF file; None where there is none that can be read."""
    try:
        return elf.read(program) if program else None
    except (OSError, RumplabError, elf.Unfit):
        return None


def pack(source: Path, target: Path) -> None:
    """Writes `source` to `target`, compressed: each piece by itself, so that all that are zero are so but once."""
    nothing = gzip.compress(bytes(PIECE), QUICKEST)
    with source.open("rb") as plain, target.open("wb") as packed:
        while piece := plain.read(PIECE):
            packed.write(gzip.compress(piece, QUICKEST) if any_set(piece) else nothing)


def any_set(piece: bytes) -> bool:
    """Whether `piece`, if it is a whole one, has a byte that isn't zero; of the last one this needn't be known."""
    return len(piece) < PIECE or piece.count(0) < PIECE
