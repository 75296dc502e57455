"""The ELF note that describes the machine in a dump, in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from rumplab.errors import RumplabError
from rumplab.host.answers import MALFORMED, check_fields
from rumplab.lab.config import SCHEMA
from rumplab.postmortem.elf import Note

OWNER = b"rumplab"
# A type that no debugger uses.
KIND = 0x52554D50


@dataclass(frozen=True)
class Record:
    """The machine in a dump.

    `program` has the symbols; its hash and size are those at the time of the dump. `image_sha256` is empty if the image
    is too large to be read. `kind` is the kind of a guest; its symbols name the directory `sources` as `source_name`.
    `window` is the virtual address where the dump has physical memory, or 0 if physical addresses are used or if there
    is no room for it. `virtual` says that addresses are the guest's virtual ones; `cut`, that the page tables map more
    memory than the dump lists. `cause` is the reason of the guest's failure. `time` is UNIX time.
    """

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
    """Returns the note for `record`."""
    return Note(OWNER, KIND, json.dumps(asdict(record)).encode())


def find(notes: Iterable[Note]) -> Record | None:
    """Returns the record among `notes`; None if another program wrote the core. RumplabError for a damaged record."""
    text = next((note.content for note in notes if note.owner == OWNER and note.kind == KIND), None)
    if text is None:
        return None
    try:
        data = json.loads(text)
        known = {item.name for item in fields(Record)}
        record = Record(**{key: value for key, value in data.items() if key in known})
        check_fields(record)
        for value in asdict(record).values():
            # Some values go into GDB's commands and to the terminal, where a control character could do harm.
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(f"{value[:60]!r} has control characters")
    except MALFORMED as error:
        raise RumplabError(f"its note of rumplab is damaged ({error}); dump the machine again") from error
    if record.schema != SCHEMA:
        raise RumplabError(f"its note has schema {record.schema}, not {SCHEMA}; open it with the rumplab that wrote it")
    return record
