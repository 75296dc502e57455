"""Recognises by its content what a file for ``rumplab run`` is, and finds the program with its symbols."""

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
    """A program (`format` is None) or a disk image of `format`. `program` is the ELF file with the symbols, if known.
    `cd` says that the image is a CD's; a hybrid image works as a disk's too."""

    path: str
    format: str | None
    program: str | None
    program_sha256: str | None
    cd: bool = False

    @property
    def staged(self) -> bool:
        """Whether ``rumplab stage`` made the image."""
        return self.format is not None and self.program is not None


def inspect(path: str, format: str | None = None) -> Media:
    """Recognises the file at `path`; the result has an absolute path. If `format` is given, the file is a disk image of
    that format, whatever its content. RumplabError if the file is neither a program nor an image."""
    # In a relative path, QEMU would take the text before a colon for a protocol.
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
        raise RumplabError(
            f"{path} is neither an ELF program nor a disk image ({len(head)} bytes); name an image or a program"
        )
    program, sha256 = sidecar(absolute)
    format = format or recognise.format_of(absolute)
    return Media(absolute, format, program, sha256, format == recognise.RAW and recognise.is_cd(absolute))


def sidecar(image: str) -> tuple[str | None, str | None]:
    """Returns the program's path and SHA-256 from ``IMAGE.rumplab.json``, which ``rumplab stage`` writes beside the
    image; (None, None) if there is no such file."""
    path = Path(f"{image}.rumplab.json")
    if not path.exists():
        return None, None
    remedy = "stage the image again with 'rumplab stage'"
    data = read_object(path, remedy)
    return text(data, "program", path, remedy), text(data, "sha256", path, remedy)
