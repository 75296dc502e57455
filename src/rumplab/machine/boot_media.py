"""What a file given to ``rumplab run`` is, told by its content, and which program's symbols belong to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import regular
from rumplab.image import recognise
from rumplab.lab.config import read_object, text

SECTOR = 512


@dataclass(frozen=True)
class Media:
    """A program (`format` is None) or a disk image of `format`, and the program in it, if known. With `cd` it is a
    CD's, which may be a disk's too (a hybrid)."""

    path: str
    format: str | None
    program: str | None
    program_sha256: str | None
    cd: bool = False

    @property
    def staged(self) -> bool:
        """Whether it is an image that ``rumplab stage`` made."""
        return self.format is not None and self.program is not None


def inspect(path: str, format: str | None = None) -> Media:
    """Looks at the file. RumplabError when it is neither a program nor an image; `path` becomes absolute. With `format`
    it is a disk image of that, whatever its bytes say by now."""
    # An absolute path also keeps QEMU from taking what stands before a colon for a protocol.
    absolute = os.path.abspath(path)
    try:
        with regular.opened(absolute) as handle:
            head = handle.read(SECTOR)
    except OSError as error:
        raise RumplabError(
            f"cannot read {path}: {error.strerror}; give an image made by 'rumplab stage', or a program"
        ) from error
    if format is None and head.startswith(b"\x7fELF"):
        return Media(absolute, None, absolute, None)
    if len(head) < SECTOR and not head.startswith(recognise.DESCRIPTOR):
        raise RumplabError(f"{path} is neither an ELF program nor a disk image ({len(head)} bytes)")
    program, sha256 = sidecar(absolute)
    format = format or recognise.format_of(absolute)
    return Media(absolute, format, program, sha256, format == recognise.RAW and recognise.is_cd(absolute))


def sidecar(image: str) -> tuple[str | None, str | None]:
    """Program and its sha256 from ``IMAGE.rumplab.json``, which ``rumplab stage`` writes beside the image."""
    path = Path(f"{image}.rumplab.json")
    if not path.exists():
        return None, None
    remedy = "stage the image again with 'rumplab stage'"
    data = read_object(path, remedy)
    return text(data, "program", path, remedy), text(data, "sha256", path, remedy)
