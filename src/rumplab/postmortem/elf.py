"""Reads and writes little-endian ELF files of 32 and 64 bits: the segments, notes and symbols that cores need."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Union

from rumplab.host import regular

MAGIC = b"\x7fELF"
NARROW, WIDE = 1, 2
LITTLE_ENDIAN = 1
ET_CORE = 4
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4
SHT_SYMTAB = 2
SHF_ALLOC, SHF_EXECINSTR = 2, 4
SHT_PROGBITS = 1
NOTE = struct.Struct("<III")
# A note's name and its content are each padded to a multiple of this.
NOTE_UNIT = 4
# PN_XNUM, one more, has another meaning in the count of program headers.
MOST_SEGMENTS = 0xFFFE
READ_WRITE_EXECUTE = 7

Bytes = Union[bytes, memoryview]


class InvalidElf(ValueError):
    """The bytes aren't such an ELF file, or aren't complete. The message is a predicate: "is …"."""


@dataclass(frozen=True)
class Segment:
    """A program header. `size` counts the bytes in the file."""

    kind: int
    offset: int
    virtual: int
    physical: int
    size: int


@dataclass(frozen=True)
class Section:
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True)
class Note:
    owner: bytes
    kind: int
    content: bytes


@dataclass(frozen=True)
class Layout:
    """The structures of one class of ELF files."""

    header: struct.Struct
    segment: struct.Struct
    section: struct.Struct
    symbol: struct.Struct


# Identity; type, machine, version, entry, phoff, shoff, flags, and the sizes and counts.
LAYOUTS = {
    NARROW: Layout(*map(struct.Struct, ("<16sHHIIIIIHHHHHH", "<IIIIIIII", "<IIIIIIIIII", "<IIIBBH"))),
    WIDE: Layout(*map(struct.Struct, ("<16sHHIQQQIHHHHHH", "<IIQQQQQQ", "<IIQQQQIIQQ", "<IBBHQQ"))),
}


@dataclass(frozen=True)
class Elf:
    """An ELF file whose bytes are `data`."""

    data: Bytes
    wide: bool
    kind: int
    machine: int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    def notes(self) -> list[Note]:
        """Returns the notes of all PT_NOTE segments."""
        return [
            note
            for segment in self.segments
            if segment.kind == PT_NOTE
            for note in notes(bytes(self.data[segment.offset : segment.offset + segment.size]))
        ]

    def loads(self) -> list[Segment]:
        """Returns the PT_LOAD segments."""
        return [segment for segment in self.segments if segment.kind == PT_LOAD]

    def missing(self) -> int:
        """Returns how many bytes of the segments are behind the end of the file."""
        ends = [segment.offset + segment.size for segment in self.segments]
        return max(0, max(ends, default=0) - len(self.data))

    def code(self) -> list[Section]:
        """Returns the sections that contain instructions."""
        wanted = SHF_ALLOC | SHF_EXECINSTR
        return [one for one in self.sections if one.kind == SHT_PROGBITS and one.flags & wanted == wanted]

    def symbols(self, names: Iterable[str]) -> dict[str, int]:
        """Returns the values of `names`, as far as the symbol table has them."""
        found: dict[str, int] = {}
        for table in self.sections:
            if table.kind == SHT_SYMTAB and table.link < len(self.sections):
                strings = self.sections[table.link]
                text = bytes(self.data[strings.offset : strings.offset + strings.size])
                wanted = {at: name for name in names for at in places(text, name)}
                found.update(self._values(table, wanted))
        return found

    def _values(self, table: Section, wanted: dict[int, str]) -> Iterator[tuple[str, int]]:
        one = LAYOUTS[WIDE if self.wide else NARROW].symbol
        value = 4 if self.wide else 1
        entries = self.data[table.offset : table.offset + table.size]
        for entry in one.iter_unpack(entries[: len(entries) - len(entries) % one.size]):
            if entry[0] in wanted:
                yield wanted[entry[0]], entry[value]


def places(text: bytes, name: str) -> Iterator[int]:
    """Yields the offsets of `name` in a string table, also where it is the end of a longer name."""
    sought = name.encode() + b"\0"
    at = text.find(sought)
    while at >= 0:
        yield at
        at = text.find(sought, at + 1)


def parse(data: Bytes) -> Elf:
    """Returns the ELF file in `data`. InvalidElf if `data` isn't one."""
    identity = bytes(data[:6])
    if identity[:4] != MAGIC:
        raise InvalidElf("is not an ELF file")
    if len(identity) < 6 or identity[4] not in LAYOUTS or identity[5] != LITTLE_ENDIAN:
        raise InvalidElf("is an ELF file that is not little-endian")
    layout = LAYOUTS[identity[4]]
    try:
        header = layout.header.unpack_from(data)
        _, kind, machine, _, _, segments_at, sections_at, _, _, segment_size, segments, section_size, sections, _ = (
            header
        )
        return Elf(
            data=data,
            wide=identity[4] == WIDE,
            kind=kind,
            machine=machine,
            segments=tuple(
                as_segment(layout.segment.unpack_from(data, segments_at + at * segment_size), identity[4])
                for at in range(segments)
            ),
            sections=tuple(
                as_section(layout.section.unpack_from(data, sections_at + at * section_size))
                for at in range(sections if sections_at else 0)
            ),
        )
    except (struct.error, OverflowError) as error:
        raise InvalidElf("is cut short: a header is behind its end") from error


def read(path: str) -> Elf:
    """Returns the ELF file at `path`. Maps the file, since a kernel with symbols may have half a gigabyte. InvalidElf
    if it isn't an ELF file; OSError."""
    with regular.opened(path) as stream:
        try:
            return parse(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
        except ValueError as error:
            # mmap refuses an empty file.
            raise error if isinstance(error, InvalidElf) else InvalidElf("is empty") from error


def as_segment(values: tuple[int, ...], layout: int) -> Segment:
    if layout == WIDE:
        kind, _, offset, virtual, physical, size, _, _ = values
    else:
        kind, offset, virtual, physical, size, _, _, _ = values
    return Segment(kind, offset, virtual, physical, size)


def as_section(values: tuple[int, ...]) -> Section:
    name, kind, flags, address, offset, size, link, _, _, _ = values
    return Section(name, kind, flags, address, offset, size, link)


def notes(data: bytes) -> Iterator[Note]:
    """Yields the notes in `data`. InvalidElf if the last one isn't complete."""
    at = 0
    while at + NOTE.size <= len(data):
        name, size, kind = NOTE.unpack_from(data, at)
        content = at + NOTE.size + padded(name)
        if content + size > len(data):
            raise InvalidElf("has a note that is longer than its segment")
        yield Note(data[at + NOTE.size :][:name].rstrip(b"\0"), kind, data[content : content + size])
        at = content + padded(size)


def padded(size: int) -> int:
    return -(-size // NOTE_UNIT) * NOTE_UNIT


def note_bytes(note: Note) -> bytes:
    """Returns the note as it is stored in a file."""
    owner = note.owner + b"\0"
    return (
        NOTE.pack(len(owner), len(note.content), note.kind)
        + owner.ljust(padded(len(owner)), b"\0")
        + note.content.ljust(padded(len(note.content)), b"\0")
    )


def core_header(wide: bool, machine: int, segments_at: int, segments: int) -> bytes:
    """Returns the ELF header of a core with `segments` program headers at the offset `segments_at`."""
    layout = LAYOUTS[WIDE if wide else NARROW]
    identity = MAGIC + bytes([WIDE if wide else NARROW, LITTLE_ENDIAN, 1]) + bytes(9)
    return layout.header.pack(
        identity, ET_CORE, machine, 1, 0, segments_at, 0, 0, layout.header.size, layout.segment.size, segments, 0, 0, 0
    )


def segment_bytes(segment: Segment, wide: bool) -> bytes:
    """Returns the program header as it is stored in a file."""
    layout = LAYOUTS[WIDE if wide else NARROW].segment
    flags = READ_WRITE_EXECUTE if segment.kind == PT_LOAD else 0
    offset, virtual, physical, size = segment.offset, segment.virtual, segment.physical, segment.size
    if wide:
        return layout.pack(segment.kind, flags, offset, virtual, physical, size, size, 0)
    return layout.pack(segment.kind, offset, virtual, physical, size, size, flags, 0)
