"""Reads and writes a recording's record, ``recording.json``: what a replay needs, and how the run ended.

rumplab writes the record before QEMU starts. The first command after QEMU's end adds the end
(rumplab.recording.ending).
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError
from rumplab.host import regular
from rumplab.host.answers import MALFORMED, check_fields, typed
from rumplab.lab.config import SCHEMA
from rumplab.recording import hardware
from rumplab.recording.hardware import Hardware

RECORD = "recording.json"
LOG = "log"
CONSOLE = "console"
MESSAGES = "messages"
# The recording's own files. The others are its parts.
OWN = (RECORD, LOG, CONSOLE, MESSAGES)
SNAPSHOTS = "snapshots"
SEAL = "seal"
# The most bytes of a record: one with all devices has a few thousand.
LARGEST = 1 << 20
# The beginning of the year 10000. The C library can't format every time that a number can express.
LATEST = 253_402_300_800
# The fields of Recording that are not in its file.
CHOSEN = ("directory", "sandbox", "key")


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
    """A recording. `argv` is the command that recorded it, which is only shown; a replay's command is made from
    `hardware`. `emulator` and `sandbox` are the QEMU that replays and the value of its -sandbox: this host chooses
    them. `key` is the path of the user's secret: only snapshots that this user made with it are used. `symbols` is the
    name of the part that GDB loads. `created` is UNIX time."""

    directory: Path
    machine: str
    created: float
    emulator: str
    version: str
    firmware: str
    argv: tuple[str, ...]
    hardware: Hardware
    parts: tuple[Part, ...] = ()
    symbols: str | None = None
    end: End | None = None
    sandbox: str | None = None
    key: Path | None = None
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

    def run_by(self, emulator: str, sandbox: str | None) -> Recording:
        """Returns the recording with the path of another QEMU, and with the value of its -sandbox."""
        return replace(self, emulator=emulator, sandbox=sandbox)

    def words(self) -> list[str]:
        """Returns the arguments of `reopened`, for another process."""
        return [str(self.directory), self.emulator, self.sandbox or "", str(self.key or "")]

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
    """Returns the content of the record's file: all but the directory, which is the file's own, and what the host that
    replays chooses."""
    data = asdict(recording)
    for name in CHOSEN:
        del data[name]
    return data


def seal(data: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record without its seal."""
    rest = {key: value for key, value in data.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(recording: Recording) -> None:
    """Writes the record; an existing one is replaced when the new one is complete."""
    data = as_data(recording)
    temporary = recording.directory / f".{RECORD}"
    # Whoever made the directory may have made a link with this name.
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as handle:
        handle.write(json.dumps({**data, SEAL: seal(data)}, indent=2) + "\n")
    temporary.replace(recording.directory / RECORD)


def read(directory: Path) -> Recording:
    """Returns the recording in `directory`. RumplabError if there is none, if its record is damaged or was edited, or
    if a file of it is a link or no file."""
    path = directory / RECORD
    check_kind(path)
    try:
        with path.open("rb") as handle:
            text = handle.read(LARGEST + 1).decode("utf-8")
    except FileNotFoundError:
        raise RumplabError(
            f"{directory} is not a recording ({RECORD} is missing); list yours with: rumplab recording ls"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from error
    if len(text) > LARGEST:
        raise damaged(path, "it is too large")
    try:
        data = typed(json.loads(text), dict)
        if data.get("schema") != SCHEMA:
            raise RumplabError(f"{path} has schema {data.get('schema')!r}, not {SCHEMA}; use the rumplab that wrote it")
        if data.get(SEAL) != seal(data):
            raise damaged(path, "its content doesn't match its seal")
        found = made(directory, data)
    except MALFORMED as error:
        raise damaged(path, " ".join(f"{type(error).__name__}: {error}".split())) from error
    for name in (*OWN, *found.hashes):
        check_kind(directory / name)
    return found


def check_kind(path: Path) -> None:
    """Raises RumplabError if `path` exists and isn't a regular file: a recording from somebody else could make a
    command read or write another file, or wait for a FIFO."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        what = "a link" if stat.S_ISLNK(mode) else regular.kind(mode)
        raise RumplabError(f"{path} is {what}, which no recording has; don't use this recording")


def made(directory: Path, data: dict[str, Any]) -> Recording:
    """Returns the recording in `data`. Ignores unknown keys, which a newer rumplab may have added."""
    known = {item.name for item in fields(Recording)} - {*CHOSEN, "parts", "end", "argv", "hardware"}
    parts = tuple(Part(**typed(part, dict)) for part in typed(data["parts"], list))
    names = {part.name for part in parts}
    recording = Recording(
        directory=directory,
        argv=tuple(typed(data["argv"], list)),
        hardware=hardware.from_data(data["hardware"], names),
        parts=parts,
        end=End(**typed(data["end"], dict)) if data["end"] is not None else None,
        **{key: value for key, value in data.items() if key in known},
    )
    for one in (recording, *recording.parts, *([recording.end] if recording.end else [])):
        check_fields(one)
    if not 0 <= recording.created < LATEST:
        raise ValueError(f"{recording.created} is not a time")
    for part in recording.parts:
        check_part(part.name)
    if recording.symbols is not None and recording.symbols not in names:
        raise ValueError(f"the file {recording.symbols!r} is missing")
    return recording


def check_part(name: str) -> None:
    """Raises ValueError for a name that rumplab gives no copied file."""
    if not name or "/" in name or "\0" in name or name.startswith(".") or name in OWN:
        raise ValueError(f"{name!r} can't name a file of a recording")


def reopened(words: Sequence[str]) -> Recording:
    """Returns the recording whose words() another process has passed. RumplabError as `read`."""
    directory, emulator, sandbox, key = words
    return replace(read(Path(directory)), emulator=emulator, sandbox=sandbox or None, key=Path(key) if key else None)


def damaged(path: Path, why: str) -> RumplabError:
    return RumplabError(f"{path} is damaged ({why}); record the run again")
