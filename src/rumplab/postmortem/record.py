"""What a dump says of the machine that it was: a note in it, in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from rumplab.errors import RumplabError
from rumplab.host.answers import MALFORMED, check_fields
from rumplab.lab.config import SCHEMA
from rumplab.postmortem.elf import Note

OWNER = b"rumplab"
# One that debuggers don't take for a note of their own.
KIND = 0x52554D50


@dataclass(frozen=True)
class Record:
    """`program` has the symbols, with the hash and size that it had when the machine was dumped; `image_sha256` is
    empty for one that is too large to be read. `kind` is a guest's, whose symbols call the directory `sources` by
    `source_name`. `window` is where physical memory can be read, 0 where that is at its own addresses or nowhere.
    `virtual` says whether addresses are the guest's virtual ones, `cut` that there are more than these. `cause` is what
    the guest failed by. `time` is UNIX time."""

    name: str
    emulator: str = ""
    accel: str = ""
    image: str | None = None
    image_sha256: str = ""
    program: str | None = None
    program_sha256: str = ""
    program_size: int = 0
    kind: str = ""
    sources: str = ""
    source_name: str = ""
    state: str = ""
    cause: str = ""
    window: int = 0
    virtual: bool = False
    cut: bool = False
    time: float = 0.0
    schema: int = SCHEMA


def note(record: Record) -> Note:
    return Note(OWNER, KIND, json.dumps(asdict(record)).encode())


def find(notes: Iterable[Note]) -> Record | None:
    """The record among `notes`; None where another program has made the core. RumplabError for a damaged one."""
    text = next((note.content for note in notes if note.owner == OWNER and note.kind == KIND), None)
    if text is None:
        return None
    try:
        data = json.loads(text)
        known = {item.name for item in fields(Record)}
        record = Record(**{key: value for key, value in data.items() if key in known})
        check_fields(record)
        for value in asdict(record).values():
            # Some of it becomes part of a debugger's commands, and of what is printed.
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(f"{value[:60]!r} is no name")
    except MALFORMED as error:
        raise RumplabError(f"its note is damaged ({error}); dump the machine again") from error
    if record.schema != SCHEMA:
        raise RumplabError(f"it was written by another rumplab (schema {record.schema}, this one reads {SCHEMA})")
    return record
