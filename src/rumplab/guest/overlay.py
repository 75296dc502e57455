"""The disk that ``--persist`` keeps for a guest: a qcow2 overlay whose backing file is the guest's original disk.

An overlay holds only the blocks that differ from its base. With another base it is garbage, so the base's size,
modification time and hash are recorded beside it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.guest.definition import DISK, DISK_FORMAT, keeps_disk
from rumplab.host import files
from rumplab.host.files import sha256
from rumplab.image import disk
from rumplab.image.layout import MIB
from rumplab.image.step import Step
from rumplab.lab.config import SCHEMA, read_object
from rumplab.machine.registry import Machines

RECORD = "disk.json"
# The free space that a new overlay needs, in bytes: the empty file and some blocks.
LEAST = 16 * MIB
SECONDS = 60


@dataclass(frozen=True)
class Base:
    """The base of an overlay: its path, its size in bytes, its modification time, and its SHA-256."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


def create_step(qemu_img: str, base: str, kind: str, target: str) -> Step:
    """The command that makes the overlay `target` over `base` of format `kind`."""
    return Step((qemu_img, "create", "-q", "-f", DISK_FORMAT, "-F", kind, "-b", base, target))


def look(path: str) -> Base:
    status = os.stat(path)
    return Base(path, status.st_size, status.st_mtime_ns, sha256(path))


def provide(qemu_img: str, directory: Path, base: str, kind: str, machines: Machines) -> Path:
    """The path of the overlay in `directory` over `base`; makes it unless it exists. RumplabError when an existing
    overlay has another base, or when there is no space."""
    target = directory / DISK
    if keeps_disk(directory):
        check(directory, base)
        return target
    files.require_space(directory, LEAST, "the disk that is kept")
    made = directory / f".{DISK}"
    made.unlink(missing_ok=True)
    disk.run(create_step(qemu_img, base, kind, str(made)), directory, SECONDS, base, machines)
    record = {"schema": SCHEMA, **asdict(look(base))}
    (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    made.rename(target)
    return target


def check(directory: Path, base: str) -> None:
    """RumplabError unless `base` is the base of the overlay in `directory`, and unchanged."""
    path = directory / RECORD
    remedy = f"restore the old one, or delete the guest with its disk: rumplab guest delete {directory.name}"
    data = read_object(path, remedy)
    if data.get("path") != base:
        raise RumplabError(
            f"{directory / DISK} was made over {data.get('path')}, and the guest's disk is now {base}; {remedy}"
        )
    status = os.stat(base)
    # A restored copy has another modification time and the same content, so the content decides.
    if status.st_mtime_ns == data.get("mtime_ns") and status.st_size == data.get("size"):
        return
    if status.st_size != data.get("size") or sha256(base) != data.get("sha256"):
        raise RumplabError(
            f"{base} has changed since {directory / DISK} was made over it, so the two no longer fit; {remedy}"
        )
