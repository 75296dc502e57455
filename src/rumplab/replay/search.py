"""The last stop before a position: found by repeating the run forwards, and counting the stops on the way.

A breakpoint stops before its instruction, a watchpoint after the one that has touched its bytes. Backwards, either is
met before that instruction: the stop of a watchpoint seen at position K counts for K - 1.

QEMU mustn't be held at a position where a watchpoint stops it: it reports the one and loses the other, and aborts when
it goes on. So a search is held behind its range, and the QEMU of a search is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rumplab.replay.faults import Ended, Stuck

# What the stub says of a stop that came of being held.
HELD = b"T02"
WATCHES = (b"watch", b"rwatch", b"awatch")
# So many stops take less than a second. Where there are more, the end of the range is looked at first.
FEW, MANY = 200, 1000
WINDOWS = (10_000, 1_000_000)
# A step leaves the position as it is where an interrupt comes instead of the instruction: a few times at most.
STEPS = 100


@dataclass(frozen=True)
class Stop:
    """A stop, backwards, at `position`; `reason` is what its report says of a watchpoint, empty for a breakpoint."""

    position: int
    reason: bytes = b""


class Runner(Protocol):
    """A QEMU as a search needs it; rumplab.replay.player has the real one."""

    @property
    def position(self) -> int: ...
    def hold_at(self, position: int) -> None: ...
    def resume(self, packet: bytes) -> None: ...
    def stop(self) -> bytes: ...
    def insert(self, points: Sequence[bytes]) -> None: ...


# A fresh runner at a position.
Fresh = Callable[[int], AbstractContextManager[Runner]]


def reason(said: bytes) -> bytes:
    """What the report of a stop says of a watchpoint; nothing where it says nothing."""
    for part in said[3:].split(b";"):
        if part.partition(b":")[0] in WATCHES:
            return part + b";"
    return b""


def count(runner: Runner, points: Sequence[bytes], end: int, total: int, most: int) -> tuple[list[Stop], int | None]:
    """The stops of `points` from where `runner` is to before `end`, in a recording of `total` instructions; and the
    position where there were `most`, so that it gave up."""
    runner.insert(points)
    if end < total:
        runner.hold_at(end + 1)
    found: list[Stop] = []
    stepped, last = 0, -1
    while True:
        runner.resume(b"s" if stepped else b"c")
        try:
            said = runner.stop()
        except Ended:
            # As its guest did. Before the end of the range it's a fault.
            if end < total - 1:
                raise
            return found, None
        at, why = runner.position, reason(said)
        if why and at <= end:
            found.append(Stop(at - 1, why))
        if said.startswith(HELD) or at > end or (at == end and not why):
            return found, None
        if stepped:
            # A step past a breakpoint; where an interrupt came first, the breakpoint is still to come.
            stepped = 0
        elif not why:
            found.append(Stop(at))
            stepped = 1
        if at == last and len(found) > STEPS and found[-STEPS].position == at:
            raise Stuck(f"QEMU stops at instruction {at} again and again")
        last = at
        if len(found) >= most:
            return found, at


def last(fresh: Fresh, points: Sequence[bytes], begin: int, end: int, total: int, most: int = MANY) -> Stop | None:
    """The last stop of `points` from `begin` to before `end`; None where there is none."""
    if begin >= end:
        return None
    with fresh(begin) as runner:
        # In a range of one there are few.
        found, reached = count(runner, points, end, total, most if end - begin > 1 else MANY)
    if reached is None:
        return found[-1] if found else None
    middle = (reached + end + 1) // 2
    return (
        last(fresh, points, middle, end, total, most)
        or last(fresh, points, reached, middle, total, most)
        or (found[-1] if found else None)
    )


class Search:
    """The searches of one session: what is known of some points isn't looked for again."""

    def __init__(self, fresh: Fresh, total: int) -> None:
        self._fresh, self._total = fresh, total
        # By points: the end of what is known from the beginning on, and the stops there.
        self._known: dict[frozenset[bytes], tuple[int, list[Stop]]] = {}

    def before(self, points: Sequence[bytes], end: int) -> Stop | None:
        """The last stop of `points` before `end`."""
        if not points or end <= 0:
            return None
        key = frozenset(points)
        known = self._known.get(key)
        if known is None or known[0] < end:
            with self._fresh(0) as runner:
                found, reached = count(runner, points, end, self._total, FEW)
            if reached is not None:
                return self._near(points, reached, end) or found[-1]
            known = self._known[key] = (end, found)
        return max((stop for stop in known[1] if stop.position < end), key=lambda stop: stop.position, default=None)

    def _near(self, points: Sequence[bytes], begin: int, end: int) -> Stop | None:
        """The same where stops are many: the last of them are near, mostly."""
        later = end
        for window in WINDOWS:
            start = max(begin, end - window)
            stop = last(self._fresh, points, start, later, self._total)
            if stop is not None or start == begin:
                return stop
            later = start
        return last(self._fresh, points, begin, later, self._total)
