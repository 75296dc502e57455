"""The verified snapshots that a session may start its QEMUs from. Another process may add some meanwhile."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from rumplab.recording import code, snapshots
from rumplab.recording.code import Code
from rumplab.recording.record import Recording
from rumplab.recording.snapshots import Leg, Snapshot


class Starts:
    """The snapshots and the code between them."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._version = (0, 0)
        self._snapshots: list[Snapshot] = []
        self._bad: set[tuple[int, str]] = set()
        self._legs: list[Leg] = []
        # The code of each leg, as far as it was read; None if the file is damaged.
        self._code: dict[Leg, Code | None] = {}

    def before(self, position: int) -> Snapshot | None:
        """Returns the last snapshot at or before `position`; None for the beginning."""
        self._refresh()
        at = bisect_right([one.position for one in self._snapshots], position)
        return self._snapshots[at - 1] if at else None

    def aligned(self, position: int) -> int:
        """Returns the position of that snapshot; 0 for the beginning."""
        found = self.before(position)
        return found.position if found else 0

    def quiet_from(self, addresses: Sequence[int], end: int) -> int:
        """Returns a position from which on the run up to `end` executes nothing at `addresses`; `end` if that is
        unknown. An address that no leg executes is unknown: if the guest jumps to an address without memory, a
        breakpoint there stops, but QEMU translates nothing."""
        self._refresh()
        if not all(any(self._executes(leg, address) for leg in self._legs) for address in addresses):
            return end
        for leg in sorted(self._legs, key=lambda one: one.begin, reverse=True):
            if leg.begin < end <= leg.end:
                if self._code_of(leg) is None or any(self._executes(leg, address) for address in addresses):
                    return end
                end = leg.begin
        return end

    def _executes(self, leg: Leg, address: int) -> bool:
        known = self._code_of(leg)
        return known is not None and known.contains(address)

    def _code_of(self, leg: Leg) -> Code | None:
        if leg not in self._code:
            path = snapshots.code_file(self._recording, leg)
            self._code[leg] = code.read(path) if snapshots.unchanged(path, leg.code) else None
        return self._code[leg]

    def _refresh(self) -> None:
        version = snapshots.version(self._recording)
        if version != self._version:
            self._version = version
            index = snapshots.read(self._recording)
            self._snapshots = [one for one in index.snapshots if key(one) not in self._bad]
            self._legs = list(index.legs)

    def distrust(self, snapshot: Snapshot) -> None:
        """Drops a snapshot for the rest of the session."""
        self._bad.add(key(snapshot))
        self._snapshots = [one for one in self._snapshots if one != snapshot]


def key(snapshot: Snapshot) -> tuple[int, str]:
    return snapshot.position, snapshot.registers
