"""Formats recordings as a table, as lines of text and as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError
from rumplab.machine.registry import Machines
from rumplab.output import printable
from rumplab.recording import ending, record, snapshots
from rumplab.recording.record import Recording
from rumplab.recording.store import Recordings

HEADER = ("NAME", "STATE", "INSTRUCTIONS", "SIZE", "RECORDED", "OF")
UNITS = ("B", "KiB", "MiB", "GiB")
RUNNING, COMPLETE, MENDED, DAMAGED = "recording", "complete", "mended", "damaged"


@dataclass(frozen=True)
class Row:
    """A recording; or, if it is damaged, the `reason`."""

    directory: Path
    state: str
    recording: Recording | None = None
    reason: str = ""


def rows(recordings: Recordings, machines: Machines) -> list[Row]:
    """Returns all recordings, sorted by name, including the damaged ones."""
    return [row(directory, recordings, machines) for directory in recordings.directories()]


def row(directory: Path, recordings: Recordings, machines: Machines) -> Row:
    try:
        found = recordings.read(directory)
        if found.end is None and ending.runs(found, machines):
            return Row(directory, RUNNING, found)
        found = ending.settled(found, machines)
    except RumplabError as error:
        return Row(directory, DAMAGED, reason=str(error))
    return Row(directory, MENDED if found.end and found.end.mended else COMPLETE, found)


def size(directory: Path) -> int:
    """Returns the number of bytes that a recording takes on its disk, with its snapshots."""
    own = sum(path.stat().st_blocks * 512 for path in directory.iterdir() if path.is_file())
    return own + snapshots.size(directory)


def readable(count: int) -> str:
    """Returns `count` bytes as text, in the largest suitable unit."""
    value = float(count)
    for unit in UNITS[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} {UNITS[-1]}"


def cells(one: Row, local: Callable[[float], time.struct_time] = time.localtime) -> list[str]:
    found = one.recording
    if found is None:
        return [one.directory.name, one.state, "", readable(size(one.directory)), "", printable(one.reason)]
    instructions = str(found.end.instructions) if found.end else ""
    when = time.strftime("%Y-%m-%d %H:%M", local(found.created))
    return [found.name, one.state, instructions, readable(size(one.directory)), when, of(found)]


def of(recording: Recording) -> str:
    """Returns the path of the image or program that was run."""
    return printable(next((part.origin for part in recording.parts if part.origin), ""))


def as_data(one: Row) -> dict[str, Any]:
    """Returns the row for JSON."""
    found = record.as_data(one.recording) if one.recording else {}
    return {"name": one.directory.name, "directory": str(one.directory), "state": one.state, **found,
            "reason": one.reason or None, "size": size(one.directory), "snapshots": positions(one)}  # fmt: skip


def positions(one: Row) -> list[int]:
    """Returns the positions of the snapshots."""
    found = one.recording
    return [snapshot.position for snapshot in snapshots.read(found).snapshots] if found and found.end else []


def snapshots_of(one: Recording) -> str:
    """Returns a text about the snapshots of a complete recording."""
    index = snapshots.read(one)
    if not index.snapshots:
        return f"none{f' ({index.reason})' if index.reason else ''}"
    size = readable(snapshots.size(one.directory))
    missing = "" if index.complete else f"; more with: rumplab recording index {one.name}"
    return f"{len(index.snapshots)}, {index.every} instructions apart ({size}){missing}"


def lines(one: Recording) -> Iterator[str]:
    """Yields the lines that describe a recording."""
    end = one.end
    yield f"name          {one.name}"
    yield f"directory     {one.directory}"
    yield f"machine       {printable(one.machine)}"
    yield f"recorded      {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(one.created))}"
    yield f"QEMU          {printable(one.version)}"
    if end is None:
        yield "instructions  (the recording goes on)"
    else:
        cut = " (QEMU was killed; the log is cut after the last complete event)" if end.mended else ""
        yield f"instructions  {end.instructions}{cut}"
        yield f"log           {readable(one.log.stat().st_size)}"
        yield f"snapshots     {snapshots_of(one)}"
    for part in one.parts:
        yield printable(f"file          {part.name}{f', copy of {part.origin}' if part.origin else ''}")
    yield f"size          {readable(size(one.directory))}"
