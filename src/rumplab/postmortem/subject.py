"""What is known of a machine before it is dumped."""

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

# An image that is larger takes longer to read than the machine to dump.
LARGEST_HASHED = 256 << 20


def describe(lab: Lab, machine: Machine, cause: str = "") -> Record:
    """The record of `machine`, which fails by `cause`, if it does. A guest's also says what its kernel is, where it is
    still defined."""
    kind = sources = source_name = emulator = ""
    with contextlib.suppress(RumplabError):
        # It may have been taken away while it runs.
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
    try:
        return os.path.getsize(path) if path else 0
    except OSError:
        return 0


def hashed(path: str | None, most: int | None = None) -> str:
    """The file's sha256; empty where there is none, or it has more than `most` bytes."""
    if path is None or (most is not None and size(path) > most):
        return ""
    try:
        return sha256(path)
    except OSError:
        return ""
