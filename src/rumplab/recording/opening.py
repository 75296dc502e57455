"""Opens a recording for a replay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rumplab.lab.config import Lab
from rumplab.machine import sandbox
from rumplab.machine.registry import Machines
from rumplab.recording import ending, verifying
from rumplab.recording.emulator import identify
from rumplab.recording.record import Recording
from rumplab.recording.removing import kept
from rumplab.recording.store import PACKED, open_recordings


@contextlib.contextmanager
def opened(lab: Lab, machines: Machines, text: str) -> Iterator[Recording]:
    """Yields the complete and unchanged recording `text`, which no command can remove meanwhile. RumplabError says why
    this host can't replay it."""
    component = lab.component("qemu")
    emulator = component.path("qemu-system-x86_64")
    found = ending.settled(open_recordings(lab).find(text), machines)
    with kept(found.directory):
        verifying.require(found, identify(emulator))
        yield found.run_by(emulator, sandbox.choose(emulator, component.version, machines.root))


@contextlib.contextmanager
def opened_once(lab: Lab, machines: Machines, text: str) -> Iterator[Recording]:
    """Does the same for a recording that only this process uses: `text` may also name a packed recording, which is
    unpacked beside the user's recordings for the block."""
    if not text.endswith(PACKED):
        with opened(lab, machines, text) as found:
            yield found
        return
    # Imported here because few commands need it.
    from rumplab.recording import packing

    with (
        packing.unpacked(Path(text), open_recordings(lab).root) as unpacked,
        opened(lab, machines, str(unpacked.directory)) as found,
    ):
        yield found
