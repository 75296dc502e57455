"""QEMU's log of a run, read without QEMU: how many instructions it has, and whether it is whole.

A header (the version, four bytes, and eight that aren't used), then events: a byte that says which, then its data, all
numbers with the highest byte first. QEMU writes the version last, so a run that was killed leaves zeros there. Before
the end event comes a shutdown event, whatever ended the run.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError

# That of QEMU 7.0 and later.
VERSION = 0x0E0200C
HEADER = 12
INSTRUCTIONS = 0
INPUT = 5
FIRST_SHUTDOWN, LAST_SHUTDOWN = 10, 21
SIGNAL = FIRST_SHUTDOWN + 4
END = 39
# The events with data of one length: asynchronous calls and block requests have an id, clocks a time, a write to a
# character device what was written.
FIXED = {
    **dict.fromkeys((INSTRUCTIONS, 24), 4),
    **dict.fromkeys((3, 4, 8, 22, 25, 28, 29), 8),
    **dict.fromkeys((1, 2, 6, *range(FIRST_SHUTDOWN, LAST_SHUTDOWN + 1), *range(30, 39)), 0),
}
# Those that end in an array: the bytes before its length, which has four. Character input, a packet, bytes that a
# character device read, random numbers.
ARRAYS = {7: 1, 9: 5, 23: 0, 27: 4}
# An input event's data behind its kind: a button, a movement, a position. A key is a number or a code.
KEY, INPUTS = 0, {1: 5, 2: 12, 3: 12}
KEYS = {0: 9, 1: 5}
INTERRUPTED = 1


@dataclass(frozen=True)
class Log:
    """What a log holds: `instructions` up to its last whole event, which ends at byte `whole`. `problem` says what is
    wrong behind that. `ended` is whether QEMU wrote its end, `version` whether it wrote the header."""

    instructions: int
    whole: int
    ended: bool
    version: bool
    problem: str = ""


def read(path: Path) -> Log:
    """Reads the log at `path`. RumplabError where it is none, or of another QEMU's form."""
    with open(path, "rb") as handle:
        if os.fstat(handle.fileno()).st_size < HEADER:
            return Log(0, 0, False, False, f"{path} is shorter than a log's header")
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            version = number(data, 0)
            if version not in (0, VERSION):
                raise RumplabError(
                    f"{path} is a log of form {version:#x}, and this tool reads {VERSION:#x}, which QEMU 7.0 and later"
                    " write"
                )
            return walk(data, bool(version))


def walk(data: mmap.mmap | bytes, version: bool) -> Log:
    """The same of a log's bytes."""
    at, size, total = HEADER, len(data), 0
    while at < size:
        event = data[at]
        if event == END:
            rest = size - at - 1
            problem = f"{rest} bytes stand behind its end" if rest else ""
            return Log(total, at + 1, True, version, problem)
        length = length_of(data, at, size)
        if length is None:
            return Log(total, at, False, version, f"byte {at} begins no event that is known ({event})")
        if at + length > size:
            return Log(total, at, False, version, f"it ends in the middle of an event (byte {at})")
        if event == INSTRUCTIONS:
            total += number(data, at + 1)
        at += length
    return Log(total, at, False, version, "its end is missing")


def length_of(data: mmap.mmap | bytes, at: int, size: int) -> int | None:
    """The bytes of the event at `at`, its first one counted; more than there are where it is cut, None where it is
    none."""
    event = data[at]
    fixed = FIXED.get(event)
    if fixed is not None:
        return 1 + fixed
    if event in ARRAYS:
        before = 1 + ARRAYS[event] + 4
        if at + before > size:
            return before
        return before + number(data, at + before - 4)
    return input_length(data, at, size) if event == INPUT else None


def input_length(data: mmap.mmap | bytes, at: int, size: int) -> int | None:
    """The same of a keyboard's or a mouse's event."""
    if at + 9 > size:
        return 9
    kind = number(data, at + 1)
    if kind == KEY:
        rest = KEYS.get(number(data, at + 5))
        return None if rest is None else 9 + rest
    rest = INPUTS.get(kind)
    return None if rest is None else 5 + rest


def number(data: mmap.mmap | bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def mend(path: Path, found: Log) -> None:
    """Gives the log of a run that was killed its header and its end, behind the last whole event: QEMU then replays it
    up to there."""
    with open(path, "r+b") as handle:
        handle.truncate(max(found.whole, HEADER))
        handle.write(VERSION.to_bytes(4, "big"))
        handle.seek(0, os.SEEK_END)
        handle.write(bytes((SIGNAL, END)))
