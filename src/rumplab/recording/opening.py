"""Opens a recording for a replay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rumplab.lab.config import Lab
from rumplab.machine.registry import Machines
from rumplab.recording import ending, verifying
from rumplab.recording.emulator import identify
from rumplab.recording.record import Recording
from rumplab.recording.removing import kept
from rumplab.recording.store import open_recordings


@contextlib.contextmanager
def opened(lab: Lab, machines: Machines, text: str) -> Iterator[Recording]:
    """Yields the complete and unchanged recording `text`, which no command can remove meanwhile. RumplabError says why
    this host can't replay it."""
    emulator = lab.component("qemu").path("qemu-system-x86_64")
    found = ending.settled(open_recordings(lab).find(text), machines)
    with kept(found.directory):
        verifying.require(found, identify(emulator))
        yield found.run_by(emulator)
