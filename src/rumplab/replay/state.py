"""QEMU's command and files for a replay that starts at a snapshot.

A snapshot consists of qcow2 files. The first one, which the guest doesn't see, has the state of memory and devices;
there is one more for each disk that the guest can write to, with the recording's copy of the disk as its backing file.
QEMU writes to these files when it loads a snapshot, so each QEMU gets copies of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.machine.qemu_argv import value
from rumplab.recording import copying
from rumplab.recording.emulator import completed
from rumplab.replay.faults import Untrusted

# The file with the state, and the name of the snapshot inside each file.
STATE, TAG = "state", "rr"
# The size of the disk in that file; QEMU stores the state beyond it.
STATE_SIZE = "64K"
# A disk of the recording, as rumplab.machine.disk_controllers names it in QEMU's command.
DISK = re.compile(r"file=(?P<name>[^,]+),format=(?P<format>\w+),id=(?P<id>disk\d+)-file,snapshot=on(?P<rest>,.*)")
MEMORY = "pc.ram"
PIECE = 1 << 16
ZEROS = bytes(PIECE)
SECONDS = 60.0


@dataclass(frozen=True)
class Start:
    """The files with which QEMU starts, in `directory`. With `loads`, QEMU loads the snapshot in them; otherwise it
    starts at the beginning, and can save one. If `memory` is a path, QEMU keeps the guest's memory in that file; if
    `code` is one, it writes the code that it translates there."""

    directory: Path
    loads: bool
    memory: Path | None = None
    code: Path | None = None

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Returns `argv`, the command of a replay, with these files."""
        words = [self._drive(word) for word in argv]
        # QEMU saves the state in the first drive.
        words[1:1] = ["-drive", f"if=none,id={STATE},format=qcow2,file={value(str(self.directory / STATE))}"]
        if self.loads:
            words[words.index("-icount") + 1] += f",rrsnapshot={TAG}"
        words += ["-d", "in_asm", "-D", str(self.code)] if self.code else []
        return with_memory(words, self.memory) if self.memory else words

    def _drive(self, word: str) -> str:
        found = DISK.fullmatch(word)
        if found is None:
            return word
        overlay = value(str(self.directory / found["name"]))
        backing = f"backing.driver={found['format']},backing.file.filename={found['name']}"
        return f"file={overlay},format=qcow2,id={found['id']}-file,{backing}{found['rest']}"


def with_memory(argv: Sequence[str], path: Path) -> list[str]:
    """Returns `argv` with the guest's memory in the file `path`. For the snapshots, it is the same memory."""
    words = list(argv)
    size = words[words.index("-m") + 1]
    words[words.index("-machine") + 1] += f",memory-backend={MEMORY}"
    memory = f"memory-backend-file,id={MEMORY},share=on,size={size}{'M' if size.isdecimal() else ''}"
    return [*words, "-object", f"{memory},mem-path={value(str(path))}"]


def disks(argv: Sequence[str]) -> dict[str, str]:
    """Returns the disks that the guest can write to, and the format of each."""
    return {found["name"]: found["format"] for found in map(DISK.fullmatch, argv) if found}


def create(qemu_img: str, argv: Sequence[str], source: Path, directory: Path) -> None:
    """Makes the files in `directory`, without a snapshot. `argv` is the command of a replay of the recording in
    `source`. RumplabError if that fails."""
    base = [qemu_img, "create", "-q", "-f", "qcow2"]
    run([*base, str(directory / STATE), STATE_SIZE])
    for name, kind in disks(argv).items():
        run([*base, "-F", kind, "-b", str(source / name), str(directory / name)])


def run(argv: Sequence[str]) -> None:
    done = completed(argv, SECONDS)
    if done.returncode:
        raise RumplabError(f"'{' '.join(argv)}' failed: {done.stderr.strip()}")


def copy(source: Path, names: Iterable[str], directory: Path) -> dict[str, str]:
    """Copies the files `names` from `source` to `directory`. Returns their SHA-256. RumplabError if there is no space;
    OSError."""
    return {name: copying.copied(str(source / name), directory / name) for name in names}


def copy_verified(source: Path, files: Mapping[str, str], directory: Path) -> None:
    """Does the same, and raises Untrusted if a file is missing or doesn't have the SHA-256 in `files`."""
    try:
        found = copy(source, files, directory)
    except (OSError, RumplabError) as error:
        raise Untrusted(f"the snapshot in {source} can't be copied: {error}") from error
    if found != dict(files):
        raise Untrusted(f"the snapshot in {source} has changed")


def allocated(path: Path | None) -> int:
    """Returns the number of bytes of the guest's memory, in the file `path`, that the guest has used."""
    return os.stat(path).st_blocks * 512 if path else 0


def memory_digest(path: Path) -> str:
    """Returns the SHA-256 of the guest's memory in the file `path`, without the parts that are zero. QEMU allocates
    memory when the guest uses it, so the file has holes."""
    digest = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY)
    try:
        at, size = 0, os.fstat(handle).st_size
        while at < size:
            try:
                at = os.lseek(handle, at, os.SEEK_DATA)
            except OSError:
                # Only a hole follows.
                break
            end = os.lseek(handle, at, os.SEEK_HOLE)
            at -= at % PIECE
            while at < end:
                piece = os.pread(handle, PIECE, at)
                if piece != ZEROS:
                    digest.update(b"%d:" % at)
                    digest.update(piece)
                at += PIECE
    finally:
        os.close(handle)
    return digest.hexdigest()
