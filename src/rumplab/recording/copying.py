"""Copies a file into a recording, with its holes, and computes its SHA-256."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from rumplab.host import regular
from rumplab.host.files import require_space

PIECE = 1 << 20
ZEROS = bytes(PIECE)


def copied(source: str, target: Path) -> str:
    """Copies the file or block device `source` to the new file `target` with mode 0600. Returns the SHA-256 of the
    content. RumplabError if there isn't enough space; OSError."""
    with regular.opened(source) as given:
        require_space(target.parent, stored(given.fileno()), f"a copy of {source}")
        return written(given, target)


def written(given: IO[bytes], target: Path, spend: Callable[[int], None] = lambda count: None) -> str:
    """Writes the rest of `given` to the new file `target` with mode 0600, with holes for zeros. Returns the SHA-256 of
    the content. Calls `spend` with the number of bytes that need space, before it writes them. OSError."""
    digest = hashlib.sha256()
    with open(target, "xb", opener=private) as taken:
        while piece := given.read(PIECE):
            digest.update(piece)
            if piece == ZEROS[: len(piece)]:
                taken.seek(len(piece), os.SEEK_CUR)
            else:
                spend(len(piece))
                taken.write(piece)
        taken.truncate()
    return digest.hexdigest()


def stored(handle: int) -> int:
    """Returns the number of bytes that a file takes on its disk; 0 for a block device."""
    found = os.fstat(handle)
    return found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else 0


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
