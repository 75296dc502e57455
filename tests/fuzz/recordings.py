"""Readers of recordings, dumps and snapshots: files that others may have made, and QEMU's answers about disks."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

from unit.postmortem.test_vmcoreinfo import BANNER, BASE, TABLE, TEXT, kernel
from unit.postmortem.test_vmcoreinfo import read as kernel_memory
from unit.recording.test_log import END, HEAD, array, dword, instructions

from fuzz.engine import Reader
from fuzz.formats import TAR_WORDS, cleared
from fuzz.mutations import binary, document
from fuzz.records import TOOL, written
from rumplab import output
from rumplab.host.answers import MALFORMED
from rumplab.machine import snapshots
from rumplab.machine.registry import Machine
from rumplab.postmortem import core, cpu, debugger, dump, elf, panic_policy, vmcoreinfo
from rumplab.postmortem import record as dump_record
from rumplab.postmortem.elf import Note, Segment
from rumplab.postmortem.paging import PAGE
from rumplab.recording import listing, log, packing, record
from rumplab.recording.hardware import Card, Drive, Hardware
from rumplab.recording.record import End, Part, Recording

# Recordings.

RECORDING = Recording(
    Path("/x"),
    machine="hello",
    created=1.5,
    emulator="/usr/bin/qemu-system-x86_64",
    version="QEMU emulator version 7.2.22",
    firmware="01" * 32,
    argv=("qemu-system-x86_64", "-kernel", "hello.bin"),
    hardware=Hardware(
        memory="128M",
        program="hello.bin",
        arguments="a b",
        module=False,
        boots=False,
        disks=(Drive("raw", "ide"),),
        vga=False,
        cards=(Card("virtio", "52:54:00:00:00:01", 3),),
        pci_bridge=True,
        exit_device=True,
        ports=1,
    ),
    parts=(Part("hello.bin", "02" * 32, "/home/hello.bin"), Part("disk0", "05" * 32, "/home/disk.img")),
    symbols="hello.bin",
)
GOING_ON = json.dumps(record.as_data(RECORDING)).encode()
COMPLETE = json.dumps(record.as_data(replace(RECORDING, end=End(1000, "03" * 32, "04" * 32)))).encode()


def sealed(data: bytes) -> bytes:
    """Return the record with the seal of its content, without which no check after that of the seal would run."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
        if isinstance(value, dict):
            return json.dumps({**value, record.SEAL: record.seal(value)}).encode()
    return data


def recording(data: bytes, place: Path) -> object:
    """Read a record, and show the recording as text and as JSON."""
    written(place, record.LOG, HEAD)
    written(place, record.RECORD, sealed(data))
    found = record.read(place)
    row = listing.Row(place, listing.COMPLETE, found)
    return [*listing.lines(found), *listing.cells(row), output.as_json(listing.as_data(row)), found.hashes]


EVENTS = (
    instructions(1000),
    b"\x03" + bytes(8),
    b"\x07\0" + array(b"key"),
    b"\x09\0" + dword(0) + array(b"packet"),
    b"\x05" + dword(0) + dword(1) + bytes(5),
    b"\x05" + dword(1) + bytes(5),
    instructions(7),
)
LOGS = (HEAD + b"".join(EVENTS) + END, bytes(12) + b"".join(EVENTS))


def recorded_log(data: bytes, place: Path) -> object:
    """Read a log. A log that was cut is mended, and then has the same number of instructions and an end."""
    path = written(place, record.LOG, data)
    found = log.read(path)
    if found.problem or not found.ended:
        log.mend(path, found)
        again = log.read(path)
        assert again.ended and not again.problem and again.instructions == found.instructions
    return found


def packed() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in ((record.RECORD, sealed(GOING_ON)), *((name, name.encode()) for name in RECORDING.hashes)):
            member = tarfile.TarInfo(f"hello/{name}")
            member.size, member.pax_headers = len(content), {"mtime": "1.5"}
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue().rstrip(b"\0") + bytes(1024)


def packed_recording(data: bytes, place: Path) -> object:
    """Unpack what zstd has decompressed. It must write only below the directory of the recording."""
    inner = cleared(place)
    try:
        return packing.extract(io.BytesIO(data), inner, Path("x.tar.zst"))
    finally:
        assert [path.name for path in place.iterdir()] == ["inner"]
        assert all(path.is_file() or path.parent == inner for path in inner.rglob("*"))


# What `unpacked` turns into its own error.
UNPACKING = (*TOOL, *MALFORMED, tarfile.TarError, EOFError)

# Dumps.


def registers(cr3: int) -> bytes:
    """Return QEMU's note of a processor in long mode with paging."""
    values = [1, cpu.FORMAT.size, *range(len(cpu.GENERAL))]
    for _ in cpu.SEGMENTS:
        values += [8, 0xFFFF, 0, 0, 0]
    return cpu.FORMAT.pack(*values, 0x80000011, 0, 0, cr3, 0x20)


def paged_memory() -> bytes:
    """Return five pages: tables of four levels that map the last page, with Linux's text, at 0xffffffff82a00000."""
    address = 0xFFFF_FFFF_82A0_0000
    pages = [bytearray(PAGE) for _ in range(4)]
    for level, page in enumerate(pages):
        index = address >> (39 - 9 * level) & 511
        page[8 * index : 8 * index + 8] = ((level + 1) * PAGE | 3).to_bytes(8, "little")
    return b"".join(pages) + TEXT.ljust(PAGE, b"\0")


def core_file(notes: list[Note], memory: bytes, virtual: int = 0) -> bytes:
    told = b"".join(map(elf.note_bytes, notes))
    at = 64 + 2 * 56
    segments = (
        Segment(elf.PT_NOTE, at, 0, 0, len(told)),
        Segment(elf.PT_LOAD, at + len(told), virtual, 0, len(memory)),
    )
    table = b"".join(elf.segment_bytes(one, True) for one in segments)
    return elf.core_header(True, elf.EM_X86_64, 64, 2) + table + told + memory


NOTE = dump_record.Record("hello", program="/x/hello", sources="/s", source_name="/usr/src/hello", window=1 << 62)
OF_QEMU = core_file([Note(cpu.CORE, 1, bytes(336)), Note(cpu.QEMU, 0, registers(0))], paged_memory())
CORE = core_file(
    [Note(cpu.QEMU, 0, registers(0)), vmcoreinfo.note(TEXT), dump_record.note(NOTE)], paged_memory(), 1 << 62
)
CORES = (CORE, gzip.compress(CORE, mtime=0), OF_QEMU)
ELF_WORDS = (b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x01\x01", b"QEMU\0", b"rumplab\0", b"VMCOREINFO\0", b"\xff" * 8)


def opened_core(data: bytes, place: Path) -> object:
    """Open a dump, and make GDB's commands for it."""
    with core.opened(written(place, "x.core", data)) as found:
        found.read(1 << 62, 64)
        core.agreement(found, found.elf)
        return debugger.commands(found, "/x/hello", None)


def dump_of_qemu(data: bytes, place: Path) -> object:
    """Make the headers of a dump of what QEMU has written."""
    headers = dump.CoreHeaders(memoryview(data), dump_record.Record("hello"))
    return [headers.header(len(data)), headers.trailer(len(data)), headers.read(0xFFFF_FFFF_82A0_0000, 64)]


NAMES = {"linux_banner": BANNER, "init_top_pgt": TABLE, "phys_base": BASE, "init_uts_ns": 0x10}


def symbols(data: bytes, place: Path) -> object:
    """Read a program's symbols, and describe a Linux kernel by them."""
    found = elf.read(str(written(place, "vmlinux", data)))
    return [vmcoreinfo.made(found, kernel_memory), found.code(), found.missing()]


POLICY = json.dumps(asdict(panic_policy.PanicPolicy(pattern="panic:"))).encode()


def policy(data: bytes, place: Path) -> object:
    written(place, panic_policy.POLICY, data)
    found = panic_policy.recorded(Machine("hello", str(place)))
    return [found.dumps, found.actions]


# Disks and snapshots, as QEMU describes them.

DISKS = json.dumps(
    [
        {"inserted": {"ro": True}},
        {"device": "cd"},
        {
            "inserted": {
                "ro": False,
                "drv": "qcow2",
                "node-name": "#block1",
                "file": 'json:{"driver": "qcow2", "file": {"driver": "file", "filename": "/var/tmp/vl.x"}}',
                "backing_file": "/x/hello.img",
            }
        },
        {"inserted": {"ro": False, "drv": "qcow2", "node-name": "#block2", "file": 'json:{"file": "/nowhere"}'}},
    ]
).encode()


def disks(data: bytes, place: Path) -> object:
    """Look for disks whose writes stay. The caller turns the exceptions of MALFORMED into its own error."""
    session = mock.Mock(execute=lambda command: json.loads(data))
    return snapshots.kept_disks(Machine("hello", str(place)), session)


READERS = (
    Reader("recording.json", recording, (GOING_ON, COMPLETE), TOOL, document("../x", "log", 1e300, -1)),
    Reader("recording-log", recorded_log, LOGS, TOOL, binary((*EVENTS, END, b"\xff" * 4))),
    Reader(
        "packed-recording",
        packed_recording,
        (packed(),),
        (*TOOL, *MALFORMED, tarfile.TarError, EOFError),
        binary(TAR_WORDS),
    ),
    Reader("core", opened_core, CORES, TOOL, binary(ELF_WORDS)),
    Reader("qemu-dump", dump_of_qemu, (OF_QEMU,), TOOL, binary((*ELF_WORDS, struct.pack("<Q", 0x83), TEXT))),
    Reader("kernel-symbols", symbols, (bytes(kernel(NAMES).data),), (elf.InvalidElf,), binary(ELF_WORDS)),
    Reader("panic.json", policy, (POLICY,), TOOL, document("dump", "stop")),
    Reader("query-block", disks, (DISKS,), (*TOOL, *MALFORMED), document("qcow2", "json:", "json:{}", "/x")),
)
