"""Reads and writes a recording's record, ``recording.json``: what a replay needs, and how the run ended.

rumplab writes the record before QEMU starts. The first command after QEMU's end adds the end
(rumplab.recording.ending).
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
SNAPSHOTS = "snapshots"
SEAL = "seal"


@dataclass(frozen=True)
class Part:
    """The file `name` of the recording, a copy of the file `origin`."""

    name: str
    sha256: str
    origin: str


@dataclass(frozen=True)
class End:
    """The end of the run: the number of `instructions`, and the hashes of the log and of the console. `mended` says
    that QEMU was killed and rumplab has added an end to the log."""

    instructions: int
    log: str
    console: str
    mended: bool = False


@dataclass(frozen=True)
class Recording:
    """A recording. `argv` is the command that recorded it; `replay` is the command that replays it in the recording's
    directory, without the arguments that replay_argv() of rumplab.recording.command adds. `symbols` is the name of the
    part that GDB loads. `created` is UNIX time."""

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
        """Returns the recording with the path of another QEMU."""
        return replace(self, emulator=emulator, replay=(emulator, *self.replay[1:]))

    @property
    def hashes(self) -> dict[str, str]:
        """Returns the SHA-256 that each file must have."""
        ended = {LOG: self.end.log, CONSOLE: self.end.console} if self.end else {}
        return {**{part.name: part.sha256 for part in self.parts}, **ended}

    @property
    def messages(self) -> Path:
        """Returns the path of the file with QEMU's messages."""
        return self.directory / MESSAGES

    @property
    def symbols_file(self) -> str | None:
        """Returns the path of the file that GDB loads."""
        return str(self.directory / self.symbols) if self.symbols else None

    @property
    def origin(self) -> str | None:
        """Returns the original path of the file that GDB loads."""
        return next((part.origin for part in self.parts if part.name == self.symbols), None)


def as_data(recording: Recording) -> dict[str, Any]:
    """Returns the content of the record's file, without the directory, which is the file's own."""
    data = asdict(recording)
    del data["directory"]
    return data


def seal(data: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record without its seal."""
    rest = {key: value for key, value in data.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(recording: Recording) -> None:
    """Writes the record; an existing one is replaced when the new one is complete."""
    data = as_data(recording)
    temporary = recording.directory / f".{RECORD}"
    temporary.write_text(json.dumps({**data, SEAL: seal(data)}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(recording.directory / RECORD)


def read(directory: Path) -> Recording:
    """Returns the recording in `directory`. RumplabError if there is none, or if its record is damaged or was
    edited."""
    path = directory / RECORD
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RumplabError(
            f"{directory} is not a recording ({RECORD} is missing); list yours with: rumplab recording ls"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from error
    try:
        data = typed(json.loads(text), dict)
        if data.get("schema") != SCHEMA:
            raise RumplabError(f"{path} has schema {data.get('schema')!r}, not {SCHEMA}; use the rumplab that wrote it")
        if data.get(SEAL) != seal(data):
            raise damaged(path, "its content doesn't match its seal")
        return made(directory, data)
    except MALFORMED as error:
        raise damaged(path, str(error)) from error


def made(directory: Path, data: dict[str, Any]) -> Recording:
    """Returns the recording in `data`. Ignores unknown keys, which a newer rumplab may have added."""
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
            raise ValueError(f"part {part.name} is outside of the recording")
    return recording


def damaged(path: Path, why: str) -> RumplabError:
    return RumplabError(f"{path} is damaged ({why}); record the run again")
