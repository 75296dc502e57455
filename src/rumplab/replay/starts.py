"""The verified snapshots that a session may start its QEMUs from. Another process may add some meanwhile."""

from __future__ import annotations

from bisect import bisect_right

from rumplab.recording import snapshots
from rumplab.recording.record import Recording
from rumplab.recording.snapshots import Snapshot


class Starts:
    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._version = (0, 0)
        self._snapshots: list[Snapshot] = []
        self._bad: set[tuple[int, str]] = set()

    def before(self, position: int) -> Snapshot | None:
        """Returns the last snapshot at or before `position`; None for the beginning."""
        version = snapshots.version(self._recording)
        if version != self._version:
            self._version = version
            found = snapshots.read(self._recording).snapshots
            self._snapshots = [one for one in found if key(one) not in self._bad]
        at = bisect_right([one.position for one in self._snapshots], position)
        return self._snapshots[at - 1] if at else None

    def aligned(self, position: int) -> int:
        """Returns the position of that snapshot; 0 for the beginning."""
        found = self.before(position)
        return found.position if found else 0

    def distrust(self, snapshot: Snapshot) -> None:
        """Drops a snapshot for the rest of the session."""
        self._bad.add(key(snapshot))
        self._snapshots = [one for one in self._snapshots if one != snapshot]


def key(snapshot: Snapshot) -> tuple[int, str]:
    return snapshot.position, snapshot.registers
