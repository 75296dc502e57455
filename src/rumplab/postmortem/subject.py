"""Describes a machine for its dump: the image, the program and their hashes."""

from __future__ import annotations

import contextlib
import os

from rumplab.errors import RumplabError
from rumplab.guest import kernels
from rumplab.guest.definition import open_guests
from rumplab.host.files import sha256
from rumplab.lab.config import Lab
from rumplab.machine.registry import Machine
from rumplab.postmortem.record import Record

# To hash a larger image would take longer than the dump.
LARGEST_HASHED = 256 << 20


def describe(lab: Lab, machine: Machine, cause: str = "") -> Record:
    """Returns the record of `machine`. `cause` is the reason of its failure, or empty. For a guest that still has a
    definition, the record also describes the kernel."""
    kind = sources = source_name = emulator = ""
    with contextlib.suppress(RumplabError):
        # The component may have been removed while the machine runs.
        emulator = lab.component("qemu").version or ""
    if machine.guest:
        with contextlib.suppress(RumplabError):
            guest = open_guests(lab).find(machine.name)
            kind, source_name = guest.kind, guest.source_name
            sources = kernels.sources(lab, guest) or ""
    return Record(
        name=machine.name,
        emulator=emulator,
        accel=machine.accel,
        image=machine.image,
        image_sha256=hashed(machine.image, LARGEST_HASHED),
        program=machine.program,
        program_sha256=hashed(machine.program),
        program_size=size(machine.program),
        kind=kind,
        sources=sources,
        source_name=source_name,
        cause=cause,
    )


def size(path: str | None) -> int:
    """Returns the file's size in bytes; 0 if there is no file."""
    try:
        return os.path.getsize(path) if path else 0
    except OSError:
        return 0


def hashed(path: str | None, most: int | None = None) -> str:
    """Returns the file's SHA-256 in hexadecimal; an empty string without a file, or if it has more than `most`
    bytes."""
    if path is None or (most is not None and size(path) > most):
        return ""
    try:
        return sha256(path)
    except OSError:
        return ""
