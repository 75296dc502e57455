"""What a build was made of, so that the next one of the same costs nothing.

A record is JSON: ``schema`` 1, ``digest`` (SHA-256 of everything that was known before the build), ``files``
(SHA-256 of each further file that the compiler read, by path) and ``output`` (see `identity`).
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
# The wrappers round the compilers take the names of files apart at blanks.
PLAIN = re.compile(r"[\w./+@%~,-]+", re.ASCII)
LOCK_SECONDS = 1800.0
# By so much, in seconds, the clock of a file system may be behind.
CLOCK_GRAIN = 0.02
RULE = re.compile(r"(?:\\.|\$\$|[^\s\\$])+")


def digest(parts: Any) -> str:
    """SHA-256, in hex digits, of the canonical JSON of `parts`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def file_sha256(path: str) -> str | None:
    """SHA-256 of a file, in hex digits; None where it can't be read."""
    try:
        return sha256(path)
    except OSError:
        return None


def identity(path: Path) -> list[int] | None:
    """What changes with a file: size, times of change in ns, inode; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def read_files(rules: str, directories: Iterable[str], outside: Iterable[str], since: float) -> dict[str, str]:
    """The files that make rules `rules` name, by their paths, with their SHA-256.

    Relative names are looked for in all `directories`. Files in the directories `outside` don't count, but those
    that links in there lead to. One that changed after the time `since` has no sum, since the compiler may have
    seen another state of it.
    """
    found: dict[str, str] = {}
    beyond = tuple(os.path.realpath(place) + os.sep for place in outside)
    bases = [*directories]
    for name in dict.fromkeys(prerequisites(rules)):
        if "\0" in name:
            # No file is called so.
            continue
        for path in {os.path.join(base, name) for base in bases}:
            real = os.path.realpath(path)
            if real.startswith(beyond) or not os.path.isfile(real):
                continue
            # A symbolic link of the user's may lead elsewhere the next time; one in `outside` is not there then.
            path = real if path.startswith(beyond) else path
            found[path] = "" if changed(path, since) else file_sha256(path) or ""
    return found


def changed(path: str, since: float) -> bool:
    """Whether the file `path` has changed, or gone, after the time `since`."""
    try:
        return os.stat(path).st_ctime >= since - CLOCK_GRAIN
    except OSError:
        return True


def complete(rules: str) -> bool:
    """Whether GCC has noted what it read, and each rule stands by itself.

    It writes a long rule in pieces, between which another GCC's may come; with options like -MMD it notes nothing.
    """
    parts = [*right_sides(rules)]
    return bool(parts) and not any(": " in part for part in parts)


def prerequisites(rules: str) -> Iterator[str]:
    """The files right of the colons in make rules as GCC writes them."""
    for part in right_sides(rules):
        for name in RULE.findall(part):
            yield re.sub(r"\\(.)", r"\1", name.replace("$$", "$"))


def right_sides(rules: str) -> Iterator[str]:
    for rule in rules.replace("\\\n", " ").splitlines():
        yield rule.partition(": ")[2]


def cache_root(environment: Mapping[str, str]) -> Path:
    """Where records and work directories are kept. RumplabError when the tools couldn't work there."""
    base = environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", ""), ".cache")
    root = Path(base, "rumplab", "build")
    if not PLAIN.fullmatch(str(root)) or not root.is_absolute():
        raise RumplabError(
            f"{root} is no path that the toolchain can work in, which splits names at blanks; set XDG_CACHE_HOME"
            " to a plain absolute one"
        )
    return root


@dataclass(frozen=True)
class Slot:
    """What is kept for one output: its record and the work directory of its builds."""

    directory: Path
    lock: int

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def record(self) -> Path:
        return self.directory / "record.json"

    def fresh(self, wanted: str, output: Path) -> bool:
        """Whether `output` is what a build with the digest `wanted` would make."""
        try:
            known = json.loads(self.record.read_text(encoding="utf-8"))
            same = known["schema"] == SCHEMA and known["digest"] == wanted
            files = known["files"].items() if same else ()
            return bool(same and known["output"] == identity(output)) and all(
                file_sha256(path) == sha256 for path, sha256 in files
            )
        except (OSError, *MALFORMED):
            # No record, or one that was cut short: then there is something to build.
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
    """The slot of `output`, for this process alone as long as the context lasts; waits for others."""
    directory = cache_root(environment) / hashlib.sha256(os.fsencode(output)).hexdigest()[:16]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RumplabError(
            f"cannot write in {directory}: {error.strerror}; set XDG_CACHE_HOME to a directory of yours"
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
