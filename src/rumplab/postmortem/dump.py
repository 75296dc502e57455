"""Writes a dump of a machine: an ELF core of its memory and registers with the guest's virtual addresses.

QEMU stops the machine and writes its physical memory to a pipe; zeros become holes in the file. This module then
appends new notes and program headers: segments at the virtual addresses in the guest's page tables, and a note that
describes the machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import mmap
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import files
from rumplab.host.answers import MALFORMED
from rumplab.machine import qmp
from rumplab.machine.registry import Machine
from rumplab.postmortem import cpu, elf, netbsd, paging, vmcoreinfo
from rumplab.postmortem import record as records
from rumplab.postmortem.cpu import Cpu
from rumplab.postmortem.elf import Elf, Note, Segment
from rumplab.postmortem.paging import PAGE, Run
from rumplab.postmortem.record import Record

DESCRIPTOR = "rumplab-dump"
# The longest time without a byte from QEMU. A dump may take longer: its time depends on the memory and on the disk.
STALL_SECONDS = 30.0
ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.2
PIECE = 1 << 20
BLOCK = 1 << 16
ZEROS = bytes(BLOCK)
# The limit of physical addresses on x86-64, and what a 32-bit core can describe, with room for its trailer.
PHYSICAL = 1 << 52
GIB_4 = 4 << 30
ROOM = 64 << 20
# The virtual address of physical memory in the file. It isn't canonical, so no guest can use it.
WINDOW = 1 << 62
QUICKEST = 1
# Linux's F_SETPIPE_SZ, which module fcntl has since Python 3.10. Other systems lack it.
SET_PIPE_SIZE = 1031


@dataclass(frozen=True)
class Dumped:
    """A dump: its record, the file's size, and the bytes that it takes on the disk."""

    record: Record
    size: int
    taken: int


# A function that is called now and then with the bytes that QEMU has written, and with the size of the memory.
Progress = Callable[[int, int], None]


class Sink(threading.Thread):
    """Copies a pipe to a file. Zeros become holes."""

    def __init__(self, pipe: int, target: int) -> None:
        super().__init__(daemon=True)
        # A descriptor of its own: a thread that hangs in a write to a dead disk outlives the caller's.
        self._pipe, self._target = pipe, os.dup(target)
        self._stopped = threading.Event()
        self.size = 0
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            while piece := self._read():
                self._write(piece)
            os.ftruncate(self._target, self.size)
        except OSError as error:
            self.error = error
        finally:
            # If QEMU hasn't finished, its next write to the pipe fails, and its command ends with an error.
            os.close(self._pipe)
            os.close(self._target)

    def stop(self) -> None:
        """Ends the copy, and waits for that."""
        self._stopped.set()
        self.join(ANSWER_SECONDS)

    def _read(self) -> bytes:
        """Returns the next bytes; none at the end of the pipe, or after stop()."""
        while not self._stopped.is_set():
            if select.select([self._pipe], [], [], POLL_SECONDS)[0]:
                return os.read(self._pipe, PIECE)
        return b""

    def _write(self, piece: bytes) -> None:
        for at in range(0, len(piece), BLOCK):
            block = piece[at : at + BLOCK]
            if block != ZEROS[: len(block)]:
                written = 0
                while written < len(block):
                    written += os.pwrite(self._target, block[written:], self.size + written)
            self.size += len(block)


def write(
    machine: Machine,
    description: Record,
    output: Path,
    compress: bool = False,
    session: qmp.Session | None = None,
    progress: Progress | None = None,
) -> Dumped:
    """Dumps `machine` to `output`, which appears only when it is complete. `description` is the record without the run
    state. `session` is a connection to the machine, if the caller has one. RumplabError if QEMU refuses or doesn't
    finish, or if the file can't be written."""
    directory = output.parent
    files.sweep(directory)
    with files.temporary_file(directory) as temporary:
        temporary.chmod(0o600)
        with write_errors(output), temporary.open("r+b") as target:
            state = from_qemu(machine, target.fileno(), session, progress)
            record = finish(target.fileno(), replace(description, state=state, time=time.time()))
        final = temporary
        with write_errors(output), contextlib.ExitStack() as stack:
            if compress:
                final = stack.enter_context(files.temporary_file(directory))
                final.chmod(0o600)
                pack(temporary, final)
            status = final.stat()
            final.replace(output)
    return Dumped(record, status.st_size, status.st_blocks * 512)


@contextlib.contextmanager
def write_errors(output: Path) -> Iterator[None]:
    """Turns an OSError into a RumplabError that names `output`."""
    try:
        yield
    except OSError as error:
        remedy = "free some space there, or choose another place with -o"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "choose another place with -o"
        raise RumplabError(f"cannot write {output}: {error.strerror}; {remedy}") from error


def from_qemu(machine: Machine, target: int, session: qmp.Session | None, progress: Progress | None) -> str:
    """Has QEMU write its memory to the open file `target`, and returns the machine's run state. OSError if the file
    can't be written."""
    try:
        with contextlib.ExitStack() as stack:
            if session is None:
                session = stack.enter_context(qmp.Session(machine.socket, ANSWER_SECONDS))
            memory = int(session.execute("query-memory-size-summary")["base-memory"])
            state = session.status()
            sink = received(machine, session, target, Stall(machine, memory, progress))
    except MALFORMED as error:
        raise RumplabError(
            f"{machine.name} gave an answer of an unknown format: {error}; is its QEMU too new?"
        ) from error
    except qmp.QmpError as error:
        raise RumplabError(f"{machine.name} can't be dumped: {error}; see its state with: rumplab ps") from error
    if not sink.size:
        raise RumplabError(f"QEMU has written a dump of 0 bytes of {machine.name}; try again")
    return state


class Stall:
    """Checks that QEMU goes on writing, and reports the progress."""

    def __init__(self, machine: Machine, memory: int, progress: Progress | None) -> None:
        self._machine, self._memory, self._progress = machine, memory, progress
        self._size, self._since = 0, time.monotonic()

    def check(self, size: int) -> None:
        """`size` is what QEMU has written. RumplabError if it has written nothing for STALL_SECONDS."""
        now = time.monotonic()
        if size > self._size:
            self._size, self._since = size, now
            if self._progress:
                self._progress(size, self._memory)
        elif now - self._since > STALL_SECONDS:
            raise RumplabError(
                f"QEMU has written nothing of {self._machine.name}'s memory for {STALL_SECONDS:.0f} s, so the dump was"
                " ended; see its state with: rumplab ps"
            )


def received(machine: Machine, session: qmp.Session, target: int, stall: Stall) -> Sink:
    """Has QEMU write its memory to the open file `target`. Returns the thread that copied it."""
    taking, giving = os.pipe()
    with contextlib.suppress(OSError):
        # QEMU writes page by page. With a larger pipe, QEMU and the thread wait less often for each other.
        fcntl.fcntl(giving, SET_PIPE_SIZE, PIECE)
    sink = Sink(taking, target)
    sink.start()
    try:
        session.give(DESCRIPTOR, giving)
        os.close(giving)
        giving = -1
        arguments = {"paging": False, "protocol": f"fd:{DESCRIPTOR}"}
        session.execute_long("dump-guest-memory", arguments, lambda: stall.check(sink.size))
        while sink.is_alive():
            # QEMU has closed the pipe, and the thread writes the rest.
            sink.join(POLL_SECONDS)
            stall.check(sink.size)
    except qmp.Refused as error:
        with contextlib.suppress(qmp.QmpError):
            # After a refusal, QEMU still has the descriptor.
            session.execute("closefd", {"fdname": DESCRIPTOR})
        sink.stop()
        raise sink.error or refusal(machine, error) from error
    finally:
        if giving >= 0:
            os.close(giving)
        # Without a reader, QEMU ends its dump, and continues the machine.
        sink.stop()
    if sink.error:
        raise sink.error
    return sink


def refusal(machine: Machine, error: Exception) -> RumplabError:
    return RumplabError(f"QEMU does not dump {machine.name}: {error}")


def finish(target: int, record: Record) -> Record:
    """Gives QEMU's dump in the open file `target` new headers with the guest's virtual addresses and the completed
    `record`, which it returns."""
    # The mapping isn't closed here, since memoryviews still refer to it.
    data = memoryview(mmap.mmap(target, 0, access=mmap.ACCESS_READ))
    core = CoreHeaders(data, record)
    trailer, header = core.trailer(core.size), core.header(core.size)
    os.ftruncate(target, core.size)
    for offset, content in ((core.size, trailer), (0, header)):
        os.pwrite(target, content, offset)
    return core.record


class CoreHeaders:
    """The headers and notes of the final core, made from QEMU's dump `data`, of which the core has `size` bytes."""

    def __init__(self, data: memoryview, record: Record) -> None:
        self._data = data
        try:
            self._dump = elf.parse(data)
            self._notes = self._dump.notes()
            self._cpus = cpu.read(self._notes)
        except (elf.InvalidElf, *MALFORMED) as error:
            raise RumplabError(f"QEMU has written a malformed dump ({error}); try again") from error
        if not self._cpus or self._dump.missing():
            raise RumplabError("QEMU has written an incomplete dump; try again")
        if any(one.physical + one.size > PHYSICAL for one in self._dump.loads()):
            raise RumplabError("QEMU has written a malformed dump (an address that no processor has); try again")
        symbols = open_symbols(record.program)
        self._long = self._dump.machine == elf.EM_X86_64
        # A 64-bit program that hasn't entered long mode yet still needs a 64-bit core for its symbols.
        self._wide = self._long or (symbols is not None and symbols.machine == elf.EM_X86_64)
        self._memory = self._dump.loads() if self._wide else narrow(self._dump.loads())
        left_out = len(self._memory) < len(self._dump.loads())
        # The trailer, which has the notes again, takes the place of what is left out.
        self.size = max((one.offset + one.size for one in self._memory), default=0) if left_out else len(data)
        mode = paging.mode(self._cpus[0].cr0, self._cpus[0].cr4, self._long)
        self._runs: list[Run] = []
        self._cut = left_out
        if mode:
            self._map(mode, symbols)
        self._info = self._described(symbols, mode)
        text = self._info or next((note.content for note in self._notes if note.owner == vmcoreinfo.OWNER), None)
        if mode and text:
            table = vmcoreinfo.kernel_tables(text)
            if table is not None:
                self._add(paging.Walk(self._page, mode).from_root(table))
        self._segments = self._placed(mode is not None)
        self.record = replace(
            record, virtual=mode is not None, cut=self._cut, window=WINDOW if mode and self._wide else 0
        )

    def _map(self, mode: paging.Mode, symbols: Elf | None) -> None:
        """Finds the mappings of all processors, and of NetBSD's kernel. The first processor's mapping of an address
        wins."""
        tried = set()
        for one in self._cpus:
            if one.cr3 in tried:
                continue
            tried.add(one.cr3)
            walk = paging.Walk(self._page, mode).from_root(one.cr3)
            self._add(walk)
            if self._long:
                self._add_kernel(mode, netbsd.of_processor(walk.runs, self._physical), one, walk.runs)
        if self._long and symbols:
            self._add_kernel(mode, netbsd.of_kernel(symbols, self._runs, self._physical), self._cpus[0], self._runs)

    def _add_kernel(self, mode: paging.Mode, roots: Iterable[int], one: Cpu, runs: Sequence[Run]) -> None:
        """Adds the mappings of the kernel's tables among `roots`. Those are the ones with the processor's interrupt
        table, which each of a kernel's tables maps, at the same place as `runs`."""
        interrupts = one.bases["idt"]
        place = paging.translated(runs, interrupts)
        for root in roots:
            walk = paging.Walk(self._page, mode).from_root(root)
            if place is not None and paging.translated(walk.runs, interrupts) == place:
                self._add(walk)

    def _add(self, walk: paging.Walk) -> None:
        self._runs, self._cut = paging.joined(self._runs, walk.runs), self._cut or walk.cut

    def _page(self, physical: int) -> memoryview | None:
        """Returns the page at the address `physical`; None if there is no memory."""
        for segment in self._dump.loads():
            if segment.physical <= physical and physical + PAGE <= segment.physical + segment.size:
                at = segment.offset + physical - segment.physical
                return memoryview(bytes(self._data[at : at + PAGE]))
        return None

    def read(self, virtual: int, size: int) -> bytes | None:
        """Returns the guest's memory at an address; None if it isn't in one mapping."""
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
        """Returns Linux's VMCOREINFO; None for another kernel, or if QEMU has written that note already."""
        if mode is None or any(note.owner == vmcoreinfo.OWNER for note in self._notes):
            return None
        made = vmcoreinfo.made(symbols, self.read) if symbols else None
        ranges = [(one.offset, one.physical, one.size) for one in self._dump.loads()]
        # The kernel's own text also helps with KASLR, and without symbols.
        return vmcoreinfo.find(self._data, ranges) or made

    def _placed(self, virtual: bool) -> list[Segment]:
        """Returns the PT_LOAD segments: the virtual addresses, then physical memory in the window."""
        loads = self._memory
        if not virtual:
            return loads
        seen = [piece for run in self._runs for one in loads for piece in in_file(run, one)]
        most = elf.MOST_SEGMENTS - len(loads) - 1
        self._cut = self._cut or len(seen) > most
        seen = seen[:most]
        if not self._wide:
            return seen
        return seen + [replace(one, virtual=WINDOW + one.physical) for one in loads]

    def _all_notes(self) -> list[Note]:
        kept = [note for note in self._notes if note.owner != cpu.CORE] if self._wide else self._notes
        status = [cpu.status_note(one, number) for number, one in enumerate(self._cpus, 1)] if self._wide else []
        linux = [vmcoreinfo.note(self._info)] if self._info else []
        return [*status, *kept, *linux, records.note(self.record)]

    def _note_bytes(self) -> bytes:
        return b"".join(map(elf.note_bytes, self._all_notes()))

    def trailer(self, at: int) -> bytes:
        """Returns the notes and program headers for the offset `at` of the file."""
        notes = self._note_bytes()
        segments = [Segment(elf.PT_NOTE, at, 0, 0, len(notes)), *self._segments]
        return notes + b"".join(elf.segment_bytes(segment, self._wide) for segment in segments)

    def header(self, at: int) -> bytes:
        """Returns the ELF header, if trailer() is at the offset `at`."""
        machine = elf.EM_X86_64 if self._wide else elf.EM_386
        return elf.core_header(self._wide, machine, at + len(self._note_bytes()), 1 + len(self._segments))


def narrow(segments: list[Segment]) -> list[Segment]:
    """Returns the segments that a 32-bit core can describe, and that leave room for its trailer."""
    return [one for one in segments if one.physical + one.size <= GIB_4 and one.offset + one.size <= GIB_4 - ROOM]


def in_file(run: Run, segment: Segment) -> Iterator[Segment]:
    """Yields the part of `run` that is in the `segment` of physical memory, as a segment."""
    start = max(run.physical, segment.physical)
    end = min(run.physical + run.size, segment.physical + segment.size)
    if start < end:
        offset = segment.offset + start - segment.physical
        yield Segment(elf.PT_LOAD, offset, run.virtual + start - run.physical, start, end - start)


def open_symbols(program: str | None) -> Elf | None:
    """Returns the program's ELF file; None if it can't be read."""
    try:
        return elf.read(program) if program else None
    except (OSError, RumplabError, elf.InvalidElf):
        return None


def pack(source: Path, target: Path) -> None:
    """Compresses `source` to `target`, piece by piece. All pieces of zeros share one compression."""
    nothing = gzip.compress(bytes(PIECE), QUICKEST)
    with source.open("rb") as plain, target.open("wb") as packed:
        while piece := plain.read(PIECE):
            packed.write(gzip.compress(piece, QUICKEST) if any_set(piece) else nothing)


def any_set(piece: bytes) -> bool:
    """Returns whether `piece` has a byte that isn't zero. True for a piece shorter than PIECE, the last one."""
    return len(piece) < PIECE or piece.count(0) < PIECE
