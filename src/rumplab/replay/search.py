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
# So many stops take a second.
MANY = 1000
# Most stops are near. QEMU executes so many instructions in an instant, also one by one.
NEAR = 1_000_000
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
Hear = Callable[[int], None]


def nobody(_: int) -> None:
    """Hears nothing."""


def reason(said: bytes) -> bytes:
    """What the report of a stop says of a watchpoint; nothing where it says nothing."""
    for part in said[3:].split(b";"):
        if part.partition(b":")[0] in WATCHES:
            return part + b";"
    return b""


def count(
    runner: Runner, points: Sequence[bytes], end: int, total: int, most: int, hear: Hear = nobody
) -> tuple[list[Stop], int | None]:
    """The stops of `points` from where `runner` is to before `end`, in a recording of `total` instructions; and the
    position where there were `most`, so that it gave up. `hear` is told where each stop is, at once."""
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
        if found:
            hear(found[-1].position)
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
    return latest(fresh, points, begin, end, total, most, (found, reached))


def latest(
    fresh: Fresh,
    points: Sequence[bytes],
    begin: int,
    end: int,
    total: int,
    most: int,
    counted: tuple[list[Stop], int | None],
) -> Stop | None:
    """The same where it has been `counted`, maybe not to the end: then where half as many stops are to be expected, at
    the end, and before that if there are none."""
    found, reached = counted
    if reached is None:
        return found[-1] if found else None
    middle = max((reached + end + 1) // 2, end - max((reached - begin) // 2, 1))
    return (
        last(fresh, points, middle, end, total, most)
        or last(fresh, points, reached, middle, total, most)
        or (found[-1] if found else None)
    )


class Search:
    """The searches of one session: what is known of some points isn't looked for again. A search begins `near` the
    place, since QEMU is slow where the code is that it has a breakpoint in."""

    def __init__(self, fresh: Fresh, total: int, near: int = NEAR) -> None:
        self._fresh, self._total, self._near = fresh, total, near
        # By points: the range that is known, and all stops in it.
        self._known: dict[frozenset[bytes], tuple[int, int, list[Stop]]] = {}

    def before(self, points: Sequence[bytes], end: int, hear: Hear = nobody) -> Stop | None:
        """The last stop of `points` before `end`. `hear` is told where the stop may be, or a place before it."""
        if not points or end <= 0:
            return None
        key = frozenset(points)
        first, behind, stops = self._known.get(key, (end, end, []))
        if not first <= end <= behind:
            first, behind, stops = end, end, []
        before = [stop for stop in stops if stop.position < end]
        if before:
            return before[-1]
        while first > 0:
            begin = max(first - self._near, 0) if first == end else 0
            hear(begin)
            with self._fresh(begin) as runner:
                counted = count(runner, points, first, self._total, MANY, hear)
            found, reached = counted
            if reached is not None:
                return latest(self._fresh, points, begin, first, self._total, MANY, counted)
            stops, first = [*found, *stops], begin
            self._known[key] = (first, behind, stops)
            if found:
                return found[-1]
        return None
