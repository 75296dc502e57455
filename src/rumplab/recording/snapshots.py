"""The snapshots along a recording: QEMU's whole state at some positions, from which a replay can start.

They are in the recording's directory ``snapshots``: a directory for each snapshot, and ``index.json``. A pack of the
recording doesn't contain them. The index names the hashes of the recording and the QEMU; with another recording or
another QEMU, the snapshots don't count. rumplab.replay.laying makes them.

QEMU believes the state that it loads, so nobody else's snapshots count: the index has a message authentication code,
whose key is a secret of the user.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from hmac import compare_digest
from pathlib import Path
from typing import Any

from rumplab.host import locks
from rumplab.host.answers import MALFORMED, check_fields, typed
from rumplab.host.files import sha256, temporary_file
from rumplab.lab.config import SCHEMA
from rumplab.recording.record import SNAPSHOTS, Recording, seal

INDEX, LOCK = "index.json", ".lock"
# The key of the authentication code in the index, and its size and that of the secret, in bytes.
CODE = "code"
DIGEST, SECRET = 32, 32
# The prefix of the directory of a snapshot that is not verified yet.
CANDIDATE = ".candidate-"


@dataclass(frozen=True)
class Snapshot:
    """QEMU's state after `position` instructions. `registers` is the SHA-256 of the stub's answer to packet g there;
    `files` has the name and the SHA-256 of each file."""

    position: int
    registers: str
    files: dict[str, str]


@dataclass(frozen=True)
class Leg:
    """A part of the run, from `begin` to `end`. The file with the executed code has this SHA-256."""

    begin: int
    end: int
    code: str


@dataclass(frozen=True)
class Index:
    """The verified snapshots of a recording, sorted by position, `every` instructions apart, and the legs between them.
    With `complete`, there will be no more; then `reason` says why there are fewer than planned, or is empty."""

    every: int = 0
    snapshots: tuple[Snapshot, ...] = ()
    legs: tuple[Leg, ...] = ()
    complete: bool = False
    reason: str = ""
    schema: int = field(default=SCHEMA)

    def with_snapshot(self, snapshot: Snapshot) -> Index:
        return replace(self, snapshots=(*self.snapshots, snapshot))

    def without(self, *dropped: Snapshot) -> Index:
        return replace(self, snapshots=tuple(one for one in self.snapshots if one not in dropped))


def root(recording: Recording) -> Path:
    return recording.directory / SNAPSHOTS


def place(recording: Recording, snapshot: Snapshot) -> Path:
    """Returns the directory of a verified snapshot."""
    return root(recording) / str(snapshot.position)


def code_file(recording: Recording, leg: Leg) -> Path:
    return root(recording) / f"{leg.begin}-{leg.end}.code"


def identity(recording: Recording) -> str:
    """Returns the hash of all that a snapshot depends on: the recording's files, the command, and the QEMU."""
    return seal({"hashes": recording.hashes, "version": recording.version, "firmware": recording.firmware,
                 "command": recording.argv[1:]})  # fmt: skip


def authentication(recording: Recording, data: dict[str, Any]) -> str | None:
    """Returns the authentication code of an index without its code; None if the user has no secret."""
    secret = own_secret(recording)
    if secret is None:
        return None
    rest = {key: value for key, value in data.items() if key != CODE}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), key=secret, digest_size=DIGEST).hexdigest()


def own_secret(recording: Recording) -> bytes | None:
    """Returns the user's secret; None if there is none."""
    try:
        secret = recording.key.read_bytes() if recording.key else b""
    except OSError:
        return None
    return secret if len(secret) == SECRET else None


def make_secret(recording: Recording) -> None:
    """Makes the user's secret, if there is none. OSError."""
    if recording.key is None or own_secret(recording) is not None:
        return
    with temporary_file(recording.key.parent) as path:
        path.chmod(0o600)
        path.write_bytes(os.urandom(SECRET))
        # If another process makes one meanwhile, one of the two indexes doesn't count, and is made again.
        path.replace(recording.key)


def read(recording: Recording) -> Index:
    """Returns the index; an empty one if there is none, or if it belongs to another recording or is damaged."""
    try:
        data = typed(json.loads((root(recording) / INDEX).read_text(encoding="utf-8")), dict)
        code = authentication(recording, data)
        if code is None or not isinstance(data[CODE], str) or not compare_digest(data.pop(CODE), code):
            return Index()
        if data.pop("schema") != SCHEMA:
            return Index()
        if data.pop("of") != identity(recording):
            return Index()
        snapshots = tuple(Snapshot(**one) for one in data.pop("snapshots"))
        legs = tuple(Leg(**one) for one in data.pop("legs"))
        index = Index(snapshots=snapshots, legs=legs, **data)
        for one in (index, *snapshots, *legs):
            check_fields(one)
    except (*MALFORMED, OSError):
        return Index()
    return index


def write(recording: Recording, index: Index) -> None:
    """Writes the index; an existing one is replaced when the new one is complete. OSError."""
    data: dict[str, Any] = {**asdict(index), "of": identity(recording)}
    make_secret(recording)
    path = root(recording) / INDEX
    temporary = path.with_name(f".{INDEX}")
    temporary.write_text(json.dumps({**data, CODE: authentication(recording, data)}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def version(recording: Recording) -> tuple[int, int]:
    """Returns a value that changes with the index."""
    try:
        found = os.stat(root(recording) / INDEX)
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)


def size(directory: Path) -> int:
    """Returns the number of bytes that the snapshots of the recording in `directory` take on its disk."""
    total = 0
    for path in (directory / SNAPSHOTS).rglob("*"):
        # Another process may remove it meanwhile.
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def changes(recording: Recording) -> list[str]:
    """Returns a message for each file of the snapshots that is missing or has changed."""
    index = read(recording)
    files = {place(recording, one) / name: digest for one in index.snapshots for name, digest in one.files.items()}
    files.update({code_file(recording, leg): leg.code for leg in index.legs})
    return [f"{path} is missing or has changed" for path, digest in files.items() if not unchanged(path, digest)]


def unchanged(path: Path, digest: str) -> bool:
    """Returns whether the file `path` has this SHA-256."""
    try:
        return sha256(path) == digest
    except OSError:
        return False


@contextlib.contextmanager
def writing(recording: Recording) -> Iterator[None]:
    """Holds the lock of the snapshots, and removes the candidates that a killed process left. RumplabError if another
    process holds it."""
    root(recording).mkdir(0o700, exist_ok=True)
    refusal = f"another process takes the snapshots of {recording.name}; wait until it has ended"
    with locks.at_once(root(recording) / LOCK, fcntl.LOCK_EX, refusal):
        for path in root(recording).glob(f"{CANDIDATE}*"):
            shutil.rmtree(path, ignore_errors=True)
        yield


def clear(recording: Recording) -> None:
    """Removes all snapshots. Only for the holder of the lock."""
    with contextlib.suppress(FileNotFoundError):
        (root(recording) / INDEX).unlink()
    for path in root(recording).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".code":
            path.unlink()
