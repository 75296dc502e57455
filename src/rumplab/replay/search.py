"""Finds the last stop before a position: replays the run forwards, and collects the stops.

A breakpoint stops before its instruction, a watchpoint after the instruction that accessed its bytes. In reverse
execution, both stop before that instruction: a watchpoint's stop at position K counts as a stop at K - 1.

replay-break at a position where a watchpoint stops as well confuses QEMU: it reports one stop, loses the other, and
aborts when it continues. So a search sets replay-break after its range, and never uses its QEMU again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rumplab.replay.faults import Ended, Stuck
from rumplab.replay.points import BREAKPOINTS

# The stop reply at QEMU's replay-break.
HELD = b"T02"
WATCHES = (b"watch", b"rwatch", b"awatch")
# The number of stops that takes about 0.1 s. A search gives up there, and looks at a smaller part of the run.
MANY = 40
FEW = 1000
# Most stops are near. QEMU executes this number of instructions quickly, even one at a time. Then each further part of
# the run is larger by this factor, so that a far stop doesn't need many QEMUs; but a part should take no more than this
# number of seconds.
NEAR, WIDER = 200_000, 10
PART_SECONDS = 2.0
# A step doesn't change the position if an interrupt comes before the instruction; this happens a few times at most.
STEPS = 100


@dataclass(frozen=True)
class Stop:
    """A stop of reverse execution. `reason` is the watchpoint in the stop reply, or empty for a breakpoint."""

    position: int
    reason: bytes = b""


class Runner(Protocol):
    """The QEMU of a search; Player of rumplab.replay.player is the real one."""

    @property
    def position(self) -> int: ...
    def hold_at(self, position: int) -> None: ...
    def resume(self, packet: bytes) -> None: ...
    def stop(self) -> bytes: ...
    def insert(self, points: Sequence[bytes]) -> None: ...


# Starts a QEMU at a position.
Fresh = Callable[[int], AbstractContextManager[Runner]]
OnStop = Callable[[int], None]


def ignore(_: int) -> None:
    """Ignores a stop."""


def reason(said: bytes) -> bytes:
    """Returns the watchpoint in a stop reply, or an empty string."""
    for part in said[3:].split(b";"):
        if part.partition(b":")[0] in WATCHES:
            return part + b";"
    return b""


def count(
    runner: Runner, points: Sequence[bytes], end: int, total: int, most: int, on_stop: OnStop = ignore
) -> tuple[list[Stop], int | None]:
    """Returns the stops at `points` between the position of `runner` and `end`, without `end`, in a recording of
    `total` instructions. After `most` stops, gives up and also returns the position reached, otherwise None. Calls
    `on_stop` with the position of each stop at once."""
    runner.insert(points)
    if end < total:
        runner.hold_at(end + 1)
    found: list[Stop] = []
    stepped, last = 0, -1
    # After a step that a watchpoint ended, QEMU reports the end of the step as one more stop.
    repeats = False
    while True:
        runner.resume(b"s" if stepped else b"c")
        try:
            said = runner.stop()
        except Ended:
            # The recorded run ended here too. Before the end of the range, this is an error.
            if end < total - 1:
                raise
            return found, None
        at, why = runner.position, reason(said)
        if repeats and at == last and not said.startswith(HELD):
            repeats = False
            continue
        repeats = bool(stepped and why)
        if why and at <= end:
            found.append(Stop(at - 1, why))
        if said.startswith(HELD) or at > end or (at == end and not why):
            return found, None
        if found:
            on_stop(found[-1].position)
        if stepped:
            # This step left a breakpoint. If an interrupt came first, the breakpoint stops again later.
            stepped = 0
        elif not why:
            found.append(Stop(at))
            stepped = 1
        if at == last and len(found) > STEPS and found[-STEPS].position == at:
            raise Stuck(f"QEMU stops at instruction {at} repeatedly")
        last = at
        if len(found) >= most:
            return found, at


def breakpoints_only(points: Sequence[bytes]) -> list[int]:
    """Returns the addresses of `points` if all of them are breakpoints; otherwise an empty list."""
    words = [point.split(b",") for point in points]
    return [int(word[1], 16) for word in words] if all(word[0] in BREAKPOINTS for word in words) else []


def unknown(_: Sequence[int], end: int) -> int:
    """Returns from which position on the run up to `end` executes no breakpoint's address, without any knowledge."""
    return end


def beginning(_: int) -> int:
    """Returns the position of the last snapshot before a position, without snapshots."""
    return 0


class Search:
    """The searches of one session. It keeps the stops that it has found.

    A search begins in the last `near` instructions, since QEMU is slow in a page with a breakpoint. The parts before
    them begin at snapshots if that doesn't double their size: `aligned` returns the position of the last snapshot at or
    before a position. `quiet_from` returns a position from which on the run up to another one executes nothing at some
    addresses; a search for breakpoints skips that part.
    """

    def __init__(
        self,
        fresh: Fresh,
        total: int,
        aligned: Callable[[int], int] = beginning,
        near: int = NEAR,
        most: int = MANY,
        quiet_from: Callable[[Sequence[int], int], int] = unknown,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh, self._total, self._aligned, self._near, self._most = fresh, total, aligned, near, most
        self._quiet_from, self._clock = quiet_from, clock
        # For each set of points: the searched range and all stops in it.
        self._known: dict[frozenset[bytes], tuple[int, int, list[Stop]]] = {}

    def before(self, points: Sequence[bytes], end: int, on_stop: OnStop = ignore) -> Stop | None:
        """Returns the last stop at `points` before `end`; None if there is none. Calls `on_stop` with positions that
        are at or before that stop."""
        if not points or end <= 0:
            return None
        key = frozenset(points)
        first, behind, stops = self._known.get(key, (end, end, []))
        if not first <= end <= behind:
            first, behind, stops = end, end, []
        before = [stop for stop in stops if stop.position < end]
        if before:
            return before[-1]
        width, floor = self._near, 0
        # The last stop at or before `floor`, where count() gave up.
        earlier: Stop | None = None
        addresses = breakpoints_only(points)
        while first > floor:
            if addresses:
                # Nothing stops there.
                first = max(self._quiet_from(addresses, first), floor)
                self._known[key] = (first, behind, stops)
                if first == floor:
                    break
            begin = self._begin(first, floor, width)
            with self._fresh(begin) as runner:
                began = self._clock()
                # A range of one instruction has few stops.
                most = self._most if first - begin > 1 else FEW
                found, reached = count(runner, points, first, self._total, most, on_stop)
                took = max(self._clock() - began, 0.001)
            if reached is not None and first - begin > 1:
                # The last part should have half as many stops.
                floor, earlier, width = reached, found[-1], max((reached - begin) // 2, 1)
                continue
            done = first - begin
            stops, first = [*found, *stops], begin
            self._known[key] = (first, behind, stops)
            if found:
                return found[-1]
            width = max(min(width * WIDER, int(done / took * PART_SECONDS)), self._near)
        return earlier

    def _begin(self, first: int, floor: int, width: int) -> int:
        """Returns where the next part of the run begins. It ends at `first`. Below `floor` there are too many stops;
        then each part is at most half of the rest."""
        if floor:
            return max(first - width, (floor + first) // 2)
        begin = max(first - width, 0)
        snapshot = self._aligned(begin)
        return snapshot if begin - snapshot < width else begin
