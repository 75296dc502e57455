"""The search for the last stop, with a model of QEMU that executes a list of addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumplab.replay import search
from rumplab.replay.faults import Ended
from rumplab.replay.search import Search, Stop


class Model:
    """A model of QEMU and its stub: `code` has the address of each instruction, and the byte that it writes, or None.
    After the last one, QEMU ends. It loses a stop if replay-break and a watchpoint coincide, as QEMU does, and
    reports a watchpoint after a step twice."""

    def __init__(self, code: Sequence[tuple[int, int | None]], position: int) -> None:
        self.code, self.position = code, position
        self.points: set[tuple[str, int]] = set()
        self.hold: int | None = None
        self.packet = b""
        # replay-break hides the watchpoint's stop.
        self.broken = False
        # After a step that a watchpoint ended, the next stop is at the same position.
        self.repeats = False

    def hold_at(self, position: int) -> None:
        assert position >= self.position
        self.hold = position

    def insert(self, points: Sequence[bytes]) -> None:
        for point in points:
            kind, address, _ = point.decode().split(",")
            self.points.add((kind, int(address, 16)))

    def resume(self, packet: bytes) -> None:
        assert not self.broken, "QEMU would abort"
        self.packet = packet

    def at_breakpoint(self) -> bool:
        return ("1", self.code[self.position][0]) in self.points

    def stop(self) -> bytes:
        if self.repeats or (self.packet == b"c" and self.at_breakpoint()):
            self.repeats = False
            return b"T05thread:01;"
        while True:
            if self.position == len(self.code) - 1:
                raise Ended(33, "")
            written = self.code[self.position][1]
            self.position += 1
            watched = ("2", written) in self.points
            if self.position == self.hold:
                self.broken = watched
                return b"T02thread:01;"
            if watched:
                self.repeats = self.packet == b"s"
                return b"T05thread:01;watch:%x;" % (written or 0)
            if self.packet == b"s" or self.at_breakpoint():
                return b"T05thread:01;"


def truth(code: Sequence[tuple[int, int | None]], points: Sequence[bytes], end: int) -> Stop | None:
    """Returns the last stop before `end`; looks at each instruction."""
    for position in range(end - 1, -1, -1):
        address, written = code[position]
        # The last instruction ends QEMU, so its write causes no stop.
        if written is not None and b"2,%x,1" % written in points and position < len(code) - 1:
            return Stop(position, b"watch:%x;" % written)
        if b"1,%x,1" % address in points:
            return Stop(position)
    return None


CODE = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 3))), min_size=2, max_size=60)
POINTS = st.sets(st.sampled_from([b"1,%x,1" % n for n in range(6)] + [b"2,%x,1" % n for n in range(4)]), max_size=4)


def fresh_of(code: Sequence[tuple[int, int | None]]) -> search.Fresh:
    @contextmanager
    def fresh(position: int) -> Iterator[Model]:
        yield Model(code, position)

    return fresh


def same_place(found: Stop | None, expected: Stop | None) -> bool:
    return (found and found.position) == (expected and expected.position)


@given(CODE, POINTS, st.integers(1, 80), st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_search_finds_the_same_stop_as_a_look_at_each_instruction(
    code: list[tuple[int, int | None]], points: set[bytes], near: int, every: int, most: int, data: st.DataObject
) -> None:
    """With any size of the first part, any distance of the snapshots, and any limit of stops. Between snapshots, it is
    known which code is executed."""

    def quiet_from(addresses: Sequence[int], end: int) -> int:
        begin = (end - 1) - (end - 1) % every
        return end if {address for address, _ in code[begin : begin + every]} & set(addresses) else begin

    one = Search(fresh_of(code), len(code), lambda place: place - place % every, near, most, quiet_from)
    for end in data.draw(st.lists(st.integers(0, len(code) - 1), min_size=1, max_size=5)):
        assert same_place(one.before(sorted(points), end), truth(code, sorted(points), end))


def test_a_breakpoint_in_a_loop_is_searched_from_the_end() -> None:
    """There are a million stops, and each takes QEMU a millisecond."""
    code = [(number % 3, None) for number in range(3_000_000)]
    models = []

    @contextmanager
    def fresh(position: int) -> Iterator[Model]:
        models.append((Model(code, position), position))
        yield models[-1][0]

    assert Search(fresh, len(code)).before([b"1,1,1"], 2_999_000) == Stop(2_998_999)
    assert sum(model.position - began for model, began in models) < 100_000


def test_many_stops_far_away_need_few_starts() -> None:
    """A loop stops a million times; then a million instructions follow, in which there is no stop."""
    code = [(1 if number < 1_000_000 else 2, None) for number in range(2_000_000)]
    models = []

    @contextmanager
    def fresh(position: int) -> Iterator[Model]:
        models.append((Model(code, position), position))
        yield models[-1][0]

    one = Search(fresh, len(code), lambda place: place - place % 100_000, near=10_000)
    assert one.before([b"1,1,1"], 1_999_000) == Stop(999_999)
    assert len(models) < 30
    assert sum(model.position - began for model, began in models) < 3_000_000


def test_known_stops_are_not_searched_again() -> None:
    code = [(number % 50, None) for number in range(1000)]
    starts = []

    @contextmanager
    def fresh(position: int) -> Iterator[Model]:
        starts.append(position)
        yield Model(code, position)

    one = Search(fresh, len(code))
    place = 900
    for expected in (853, 803, 753, 703):
        found = one.before([b"1,3,1"], place)
        assert found == Stop(expected)
        place = expected
    assert starts == [0]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"T05thread:01;", b""),
        (b"T05thread:01;watch:0000000000117fe0;", b"watch:0000000000117fe0;"),
        (b"T05awatch:1;thread:01;", b"awatch:1;"),
        (b"S05", b""),
    ],
)
def test_the_reason_in_a_stop_reply(said: bytes, expected: bytes) -> None:
    assert search.reason(said) == expected
