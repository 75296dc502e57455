"""Recordings as people and programs are shown them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError
from rumplab.machine.registry import Machines
from rumplab.recording import ending, record
from rumplab.recording.record import Recording
from rumplab.recording.store import Recordings

HEADER = ("NAME", "STATE", "INSTRUCTIONS", "SIZE", "RECORDED", "OF")
UNITS = ("B", "KiB", "MiB", "GiB")
RUNNING, COMPLETE, MENDED, DAMAGED = "recording", "complete", "mended", "damaged"


@dataclass(frozen=True)
class Row:
    """A recording, or what is wrong with the one in `directory`."""

    directory: Path
    state: str
    recording: Recording | None = None
    reason: str = ""


def rows(recordings: Recordings, machines: Machines) -> list[Row]:
    """All recordings, by name. What is wrong with one hides no other."""
    return [row(directory, machines) for directory in recordings.directories()]


def row(directory: Path, machines: Machines) -> Row:
    try:
        found = record.read(directory)
        if found.end is None and ending.runs(found, machines):
            return Row(directory, RUNNING, found)
        found = ending.settled(found, machines)
    except RumplabError as error:
        return Row(directory, DAMAGED, reason=str(error))
    return Row(directory, MENDED if found.end and found.end.mended else COMPLETE, found)


def size(directory: Path) -> int:
    """The bytes that a recording takes on its disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir() if path.is_file())


def readable(count: int) -> str:
    """A number of bytes in its largest unit."""
    value = float(count)
    for unit in UNITS[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} {UNITS[-1]}"


def cells(one: Row, local: Callable[[float], time.struct_time] = time.localtime) -> list[str]:
    found = one.recording
    if found is None:
        return [one.directory.name, one.state, "", readable(size(one.directory)), "", one.reason]
    instructions = str(found.end.instructions) if found.end else ""
    when = time.strftime("%Y-%m-%d %H:%M", local(found.created))
    return [found.name, one.state, instructions, readable(size(one.directory)), when, of(found)]


def of(recording: Recording) -> str:
    """What was run."""
    return next((part.origin for part in recording.parts if part.origin), "")


def as_data(one: Row) -> dict[str, Any]:
    """The same for a program."""
    found = record.as_data(one.recording) if one.recording else {}
    return {"name": one.directory.name, "directory": str(one.directory), "state": one.state, **found,
            "reason": one.reason or None, "size": size(one.directory)}  # fmt: skip


def lines(one: Recording) -> Iterator[str]:
    """All there is to say of a recording, a line each."""
    end = one.end
    yield f"name          {one.name}"
    yield f"directory     {one.directory}"
    yield f"machine       {one.machine}"
    yield f"recorded      {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(one.created))}"
    yield f"QEMU          {one.version}"
    if end is None:
        yield "instructions  it is being recorded"
    else:
        cut = " (QEMU was killed: up to what it had logged)" if end.mended else ""
        yield f"instructions  {end.instructions}{cut}"
        yield f"log           {readable(one.log.stat().st_size)}"
    for part in one.parts:
        yield f"file          {part.name}{f', of {part.origin}' if part.origin else ''}"
    yield f"size          {readable(size(one.directory))}"
