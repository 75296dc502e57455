"""A recording's record, ``recording.json``: what it takes to repeat the run, and how the run ended.

It is written before QEMU starts. Who first sees that QEMU has ended adds the end (rumplab.recording.ending).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError
from rumplab.host.answers import MALFORMED, check_fields, typed
from rumplab.lab.config import SCHEMA

RECORD = "recording.json"
LOG = "log"
CONSOLE = "console"
MESSAGES = "messages"
SEAL = "seal"


@dataclass(frozen=True)
class Part:
    """A file of the recording, `name`, which was a copy of `origin`."""

    name: str
    sha256: str
    origin: str


@dataclass(frozen=True)
class End:
    """How the run ended: its `instructions`, the hashes of its log and of its console, and whether the log had to be
    given an end, since QEMU was killed."""

    instructions: int
    log: str
    console: str
    mended: bool = False


@dataclass(frozen=True)
class Recording:
    """A recording. `argv` is the command as it was run; `replay` is that of a replay, run in the recording's directory,
    without what is a replay's own (see rumplab.recording.command). `symbols` is the name of the part that GDB loads."""

    directory: Path
    machine: str
    created: float
    emulator: str
    version: str
    firmware: str
    argv: tuple[str, ...]
    replay: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    symbols: str | None = None
    end: End | None = None
    schema: int = field(default=SCHEMA)

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def log(self) -> Path:
        return self.directory / LOG

    @property
    def console(self) -> Path:
        return self.directory / CONSOLE

    def run_by(self, emulator: str) -> Recording:
        """The same for the QEMU at another path."""
        return replace(self, emulator=emulator, replay=(emulator, *self.replay[1:]))

    @property
    def hashes(self) -> dict[str, str]:
        """The sha256 that each of its files must have."""
        ended = {LOG: self.end.log, CONSOLE: self.end.console} if self.end else {}
        return {**{part.name: part.sha256 for part in self.parts}, **ended}

    @property
    def messages(self) -> Path:
        """What QEMU said while it recorded."""
        return self.directory / MESSAGES

    @property
    def symbols_file(self) -> str | None:
        """The path of the file that GDB loads."""
        return str(self.directory / self.symbols) if self.symbols else None

    @property
    def origin(self) -> str | None:
        """Where that file was copied from."""
        return next((part.origin for part in self.parts if part.name == self.symbols), None)


def as_data(recording: Recording) -> dict[str, Any]:
    """What its file says. The directory is where the file is."""
    data = asdict(recording)
    del data["directory"]
    return data


def seal(data: dict[str, Any]) -> str:
    """The sha256 of a record without its seal."""
    rest = {key: value for key, value in data.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(recording: Recording) -> None:
    """Writes the record, whole or not at all."""
    data = as_data(recording)
    temporary = recording.directory / f".{RECORD}"
    temporary.write_text(json.dumps({**data, SEAL: seal(data)}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(recording.directory / RECORD)


def read(directory: Path) -> Recording:
    """The recording in `directory`. RumplabError where there is none, or somebody has changed its record."""
    path = directory / RECORD
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RumplabError(
            f"{directory} holds no recording ({RECORD} is missing); 'rumplab recording ls' lists yours"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from error
    try:
        data = typed(json.loads(text), dict)
        if data.get("schema") != SCHEMA:
            raise RumplabError(f"{path} has schema {data.get('schema')!r}, this tool reads {SCHEMA}")
        if data.get(SEAL) != seal(data):
            raise damaged(path, "its content isn't what its seal was made for")
        return made(directory, data)
    except MALFORMED as error:
        raise damaged(path, str(error)) from error


def made(directory: Path, data: dict[str, Any]) -> Recording:
    """The recording that `data` says. What a newer tool may add is left out."""
    known = {item.name for item in fields(Recording)} - {"directory", "parts", "end", "argv", "replay"}
    recording = Recording(
        directory=directory,
        argv=tuple(data["argv"]),
        replay=tuple(data["replay"]),
        parts=tuple(Part(**part) for part in data["parts"]),
        end=End(**data["end"]) if data["end"] is not None else None,
        **{key: value for key, value in data.items() if key in known},
    )
    for one in (recording, *recording.parts, *([recording.end] if recording.end else [])):
        check_fields(one)
    for part in recording.parts:
        if Path(part.name).is_absolute() or ".." in Path(part.name).parts:
            raise ValueError(f"part {part.name} is outside")
    return recording


def damaged(path: Path, why: str) -> RumplabError:
    return RumplabError(f"{path}, a recording's record, is damaged ({why}); record the run again")
