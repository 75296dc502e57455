"""Reads a VGA card's text screen from the guest's memory and a picture of the screen. This module starts no program.

The memory holds the characters. The picture shows whether the card is in text mode, and which part of the memory is on
the screen: kernels scroll by changing the start address, which only the card's registers hold, and to read these would
disturb the guest.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The memory of the text mode: 32 KiB of cells, each with one byte for the character and one for its colours.
ADDRESS = 0xB8000
SIZE = 0x8000
WORDS = SIZE // 4
# Addresses in the BIOS data area: of the video mode, and of the number of the last row.
BIOS_MODE, BIOS_LAST_ROW = 0x449, 0x484
BIOS_TEXT_MODES = (0, 1, 2, 3, 7)
ROWS = 25
LAST_ROWS = (24, 42, 49)
HEIGHT = 400
# The width of a picture in text mode, and the width of a character in it, in pixels. Graphics modes have the widths in
# AMBIGUOUS too.
WIDTHS = {720: 9, 640: 8, 360: 9, 320: 8}
AMBIGUOUS = (640, 320)
# The characters that code page 437 has in place of ASCII's control characters.
PICTURES = "\0☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
EMPTY = (0x00, 0x20, 0xFF)
# The characters whose cell has a single colour: the empty ones, and the full block.
PLAIN = (*EMPTY, 0xDB)
# The number of cells in which the picture may differ from the memory, because the picture shows the cursor.
TOLERANCE = 2


def characters() -> str:
    """Returns the 256 characters of code page 437, with a blank for each one that the card draws as an empty cell."""
    shown = PICTURES + bytes(range(0x20, 0x7F)).decode("ascii") + "⌂" + bytes(range(0x80, 0x100)).decode("cp437")
    return "".join(" " if number in EMPTY else character for number, character in enumerate(shown))


@dataclass(frozen=True)
class Picture:
    """A picture. `pixels` has three bytes for each pixel (red, green, blue), row by row from the top."""

    width: int
    height: int
    pixels: bytes


def read_ppm(content: bytes) -> Picture:
    """Returns the picture in `content`, a binary PPM file as QEMU writes it. ValueError if it is something else."""
    fields = content.split(maxsplit=4)
    if len(fields) < 4 or fields[0] != b"P6" or fields[3] != b"255":
        raise ValueError("not a PPM picture")
    if not fields[1].isdigit() or not fields[2].isdigit():
        raise ValueError("a PPM picture without a size")
    width, height = int(fields[1]), int(fields[2])
    if not width or not height:
        raise ValueError("a PPM picture of nothing")
    size = 3 * width * height
    # One blank ends the header. The first byte of a pixel may look like a blank, so count from the end.
    start = len(content) - size
    if start < len("P6 1 1 255 ") or content[:start].split() != [b"P6", fields[1], fields[2], b"255"]:
        raise ValueError("not the whole of a PPM picture")
    return Picture(width, height, content[start:])


def png(picture: Picture) -> bytes:
    """Returns the picture as the content of a PNG file (ISO 15948), compressed and without line filters."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = 3 * picture.width
    lines = b"".join(b"\0" + picture.pixels[at : at + row] for at in range(0, len(picture.pixels), row))
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Layout:
    """The size of a text screen: `columns` and `rows` in cells, `width` and `height` of a cell in pixels."""

    columns: int
    rows: int
    width: int
    height: int


def layout(picture: Picture, bios_mode: int, bios_last_row: int) -> Layout | None:
    """Returns the layout of the text in the picture; None if the picture shows a graphics mode."""
    width = WIDTHS.get(picture.width)
    if width is None or picture.height != HEIGHT:
        return None
    if picture.width in AMBIGUOUS and bios_mode not in BIOS_TEXT_MODES:
        return None
    rows = bios_last_row + 1 if bios_last_row in LAST_ROWS else ROWS
    return Layout(picture.width // width, rows, width, picture.height // rows)


def text(memory: bytes, picture: Picture, shape: Layout) -> list[str]:
    """Returns the rows of the screen, without blanks at their ends. `memory` is the guest's from ADDRESS on."""
    first = start(memory, picture, shape)
    shown = characters()
    lines = []
    for row in range(first, first + shape.rows):
        cells = memory[2 * row * shape.columns : 2 * (row + 1) * shape.columns : 2]
        lines.append("".join(shown[cell] for cell in cells).rstrip())
    return lines


def start(memory: bytes, picture: Picture, shape: Layout) -> int:
    """Returns the row of the memory that is at the top of the screen.

    From that row on, the memory has its empty cells where the picture has them, except in TOLERANCE cells. If no row
    fits, because the guest wrote to the memory after the picture was made, returns 0.
    """
    drawn = ink(picture, shape)
    written = [
        _bits(memory[at] not in PLAIN for at in range(2 * row * shape.columns, 2 * (row + 1) * shape.columns, 2))
        for row in range(len(memory) // (2 * shape.columns))
    ]

    def misfits(first: int) -> int:
        return sum(bin(a ^ b).count("1") for a, b in zip(drawn, written[first : first + shape.rows]))

    best = min(range(len(written) - shape.rows + 1), key=misfits)
    return best if misfits(best) <= TOLERANCE else 0


def ink(picture: Picture, shape: Layout) -> list[int]:
    """Returns a number for each row of cells. It has one bit for each cell, the highest for the leftmost cell; the bit
    is set if the pixels of the cell have more than one colour."""
    line, cell = 3 * picture.width, 3 * shape.width
    rows = []
    for row in range(shape.rows):
        starts = range(row * shape.height * line, (row + 1) * shape.height * line, line)
        lines = [picture.pixels[at : at + line] for at in starts]
        rows.append(_bits(_drawn([one[at : at + cell] for one in lines]) for at in range(0, line, cell)))
    return rows


def _drawn(parts: Sequence[bytes]) -> bool:
    """Returns whether a cell has more than one colour. `parts` are its lines of pixels."""
    return any(part != parts[0] for part in parts) or parts[0] != parts[0][:3] * (len(parts[0]) // 3)


def _bits(values: Iterable[bool]) -> int:
    number = 0
    for value in values:
        number = number << 1 | value
    return number
