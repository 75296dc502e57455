"""The record of a build's inputs. A build with unchanged inputs is skipped.

A record is JSON: ``schema`` 1, ``digest`` (SHA-256 of all inputs that are known before the build), ``files`` (maps the
path of each further file that the compiler read to its SHA-256) and ``output`` (see `identity`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab.errors import RumplabError
from rumplab.host import locks
from rumplab.host.answers import MALFORMED
from rumplab.host.files import sha256

SCHEMA = 1
# The toolchain's compiler wrappers split file names at blanks.
PLAIN = re.compile(r"[\w./+@%~,-]+", re.ASCII)
LOCK_SECONDS = 1800.0
# A file system's clock may be late by so many seconds.
CLOCK_GRAIN = 0.02
RULE = re.compile(r"(?:\\.|\$\$|[^\s\\$])+")


def digest(parts: Any) -> str:
    """SHA-256, in hex digits, of the canonical JSON of `parts`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def file_sha256(path: str) -> str | None:
    """SHA-256 of a file, in hex digits; None when it can't be read."""
    try:
        return sha256(path)
    except OSError:
        return None


def identity(path: Path) -> list[int] | None:
    """The values that change whenever the file changes: size, mtime and ctime in ns, inode. None when there is no
    file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def read_files(rules: str, directories: Iterable[str], outside: Iterable[str], since: float) -> dict[str, str]:
    """Maps the path of each file that the make rules `rules` name to its SHA-256.

    Relative names are looked up in all `directories`. Files in the directories `outside` are omitted, except the
    targets of links there. The hash of a file that changed after the time `since` (UNIX time in seconds) is '', because
    the compiler may have read an older state.
    """
    found: dict[str, str] = {}
    beyond = tuple(os.path.realpath(place) + os.sep for place in outside)
    bases = [*directories]
    for name in dict.fromkeys(prerequisites(rules)):
        if "\0" in name:
            # A file name can't contain a NUL.
            continue
        for path in {os.path.join(base, name) for base in bases}:
            real = os.path.realpath(path)
            if real.startswith(beyond) or not os.path.isfile(real):
                continue
            # Record the user's symbolic link itself, since its target may change. A link in `outside` is temporary, so
            # record its target.
            path = real if path.startswith(beyond) else path
            found[path] = "" if changed(path, since) else file_sha256(path) or ""
    return found


def changed(path: str, since: float) -> bool:
    """Whether the file `path` has changed after the time `since`, or is missing."""
    try:
        return os.stat(path).st_ctime >= since - CLOCK_GRAIN
    except OSError:
        return True


def complete(rules: str) -> bool:
    """Whether `rules` has rules and none is mixed with another.

    GCC writes a long rule in pieces, so the output of parallel GCCs may be interleaved. With options like -MMD, GCC
    writes no rules to the file.
    """
    parts = [*right_sides(rules)]
    return bool(parts) and not any(": " in part for part in parts)


def prerequisites(rules: str) -> Iterator[str]:
    """The prerequisites of the make rules that GCC writes."""
    for part in right_sides(rules):
        for name in RULE.findall(part):
            yield re.sub(r"\\(.)", r"\1", name.replace("$$", "$"))


def right_sides(rules: str) -> Iterator[str]:
    for rule in rules.replace("\\\n", " ").splitlines():
        yield rule.partition(": ")[2]


def cache_root(environment: Mapping[str, str]) -> Path:
    """The directory of the records and work directories. RumplabError when the toolchain can't use its path."""
    base = environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", ""), ".cache")
    root = Path(base, "rumplab", "build")
    if not PLAIN.fullmatch(str(root)) or not root.is_absolute():
        raise RumplabError(
            f"{root} is not a path that the toolchain can use: it must be absolute, without blanks or special"
            " characters; set XDG_CACHE_HOME to such a path"
        )
    return root


@dataclass(frozen=True)
class Slot:
    """The directory for one output: it contains the record and the work directory of its builds."""

    directory: Path
    lock: int

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def record(self) -> Path:
        return self.directory / "record.json"

    def fresh(self, wanted: str, output: Path) -> bool:
        """Whether `output` is up to date: the record has the digest `wanted`, and no recorded file has changed."""
        try:
            known = json.loads(self.record.read_text(encoding="utf-8"))
            same = known["schema"] == SCHEMA and known["digest"] == wanted
            files = known["files"].items() if same else ()
            return bool(same and known["output"] == identity(output)) and all(
                file_sha256(path) == sha256 for path, sha256 in files
            )
        except (OSError, *MALFORMED):
            # There is no record, or it is damaged, so a build is necessary.
            return False

    def forget(self) -> None:
        self.record.unlink(missing_ok=True)

    def remember(self, wanted: str, files: Mapping[str, str], output: Path) -> None:
        """Records that `output` was made with the digest `wanted` and the further `files`."""
        data = {"schema": SCHEMA, "digest": wanted, "files": dict(files), "output": identity(output)}
        made = self.record.with_suffix(".new")
        made.write_text(json.dumps(data), encoding="utf-8")
        made.rename(self.record)

    def clear(self) -> None:
        """Removes the work directory."""
        if self.work.exists():
            shutil.rmtree(self.work)


@contextlib.contextmanager
def slot(output: Path, environment: Mapping[str, str]) -> Iterator[Slot]:
    """Yields the slot of `output` with an exclusive lock. Waits for another build of the same output."""
    directory = cache_root(environment) / hashlib.sha256(os.fsencode(output)).hexdigest()[:16]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RumplabError(
            f"cannot write in {directory}: {error.strerror}; set XDG_CACHE_HOME to a directory that you can write to"
        ) from error
    try:
        _acquire(lock, output)
        yield Slot(directory, lock)
    finally:
        os.close(lock)


def _acquire(lock: int, output: Path) -> None:
    holder, what = "another 'rumplab build'", f"the lock on {output}"
    try:
        locks.exclusive(lock, holder, what, 0)
    except RumplabError:
        print(f"rumplab build: waiting for another build of {output}", file=sys.stderr, flush=True)
        locks.exclusive(lock, holder, what, LOCK_SECONDS)
