"""Reads QEMU's log of a run: the number of instructions, and whether the log is complete.

The log has a header (four bytes of version, eight unused bytes) and then events: one byte for the kind, then the data.
All numbers are big-endian. QEMU writes the version last, so the log of a killed QEMU has zeros there. A shutdown event
precedes the end event, whatever ended the run. QEMU's replay/replay-internal.h defines the kinds of events.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError

# The version of QEMU 7.0 and later.
VERSION = 0x0E0200C
HEADER = 12
INSTRUCTIONS = 0
INPUT = 5
FIRST_SHUTDOWN, LAST_SHUTDOWN = 10, 21
SIGNAL = FIRST_SHUTDOWN + 4
# The shutdown events that don't end QEMU: resets by QMP, by the guest and by a subsystem, and a loaded snapshot.
RESETS = tuple(FIRST_SHUTDOWN + cause for cause in (3, 7, 9, 10))
END = 39
# The events with data of a fixed length: asynchronous calls and block requests have an ID, clocks a time, a write to a
# character device its result.
FIXED = {
    **dict.fromkeys((INSTRUCTIONS, 24), 4),
    **dict.fromkeys((3, 4, 8, 22, 25, 28, 29), 8),
    **dict.fromkeys((1, 2, 6, *range(FIRST_SHUTDOWN, LAST_SHUTDOWN + 1), *range(30, 39)), 0),
}
# The events that end with an array: the number of bytes before the array's length, which has four bytes. They are
# character input, a packet, bytes that a character device has read, and random numbers.
ARRAYS = {7: 1, 9: 5, 23: 0, 27: 4}
# The length of an input event's data after its kind: a button, a movement, a position. A key is a number or a code.
KEY, INPUTS = 0, {1: 5, 2: 12, 3: 12}
KEYS = {0: 9, 1: 5}
INTERRUPTED = 1


@dataclass(frozen=True)
class Log:
    """The content of a log: the number of `instructions` up to the guest's end, or up to the last complete event, which
    ends at byte `whole`. After a guest has powered itself off, QEMU records some more instructions, but doesn't replay
    them. `problem` describes a defect after that byte. `ended` says that the log has its end event; `version`, that
    QEMU wrote the version."""

    instructions: int
    whole: int
    ended: bool
    version: bool
    problem: str = ""


def read(path: Path) -> Log:
    """Reads the log at `path`. RumplabError if it has another version."""
    with open(path, "rb") as handle:
        if os.fstat(handle.fileno()).st_size < HEADER:
            return Log(0, 0, False, False, f"{path} is shorter than a log's header")
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            version = number(data, 0)
            if version not in (0, VERSION):
                raise RumplabError(
                    f"{path} has version {version:#x}, not {VERSION:#x}; record the run with QEMU 7.0 or later"
                )
            return walk(data, bool(version))


def walk(data: mmap.mmap | bytes, version: bool) -> Log:
    """Reads the log in `data`. `version` says that the version in the header is right."""
    at, size, executed, over = HEADER, len(data), 0, False
    while at < size:
        event = data[at]
        if event == END:
            rest = size - at - 1
            problem = f"{rest} bytes follow its end" if rest else ""
            return Log(executed, at + 1, True, version, problem)
        length = length_of(data, at, size)
        if length is None:
            return Log(executed, at, False, version, f"byte {at} begins an unknown event ({event})")
        if at + length > size:
            return Log(executed, at, False, version, f"it ends in the middle of an event (byte {at})")
        if event == INSTRUCTIONS and not over:
            executed += number(data, at + 1)
        elif FIRST_SHUTDOWN <= event <= LAST_SHUTDOWN and event not in RESETS:
            over = True
        at += length
    return Log(executed, at, False, version, "its end is missing")


def length_of(data: mmap.mmap | bytes, at: int, size: int) -> int | None:
    """Returns the length of the event at `at` in bytes, with the first one. The result exceeds the rest of the log if
    the event is cut off, and is None for an unknown event."""
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
    """Returns the length of a keyboard or mouse event."""
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
    """Gives the log of a killed QEMU its header, and an end after the last complete event, so that QEMU can replay it
    up to there. Removes what follows the end of a log."""
    with open(path, "r+b") as handle:
        handle.truncate(max(found.whole, HEADER))
        handle.write(VERSION.to_bytes(4, "big"))
        if not found.ended:
            handle.seek(0, os.SEEK_END)
            handle.write(bytes((SIGNAL, END)))
