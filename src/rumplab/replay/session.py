"""A debugger's session with a recording: one QEMU where the debugger is, others that come and go for what lies behind.

Every answer is a report of a stop, in GDB's form. A QEMU that gives no answer is replaced, at the same place; what
fails again and again is told, and leaves the session where it was.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rumplab.recording.record import Recording
from rumplab.replay import search
from rumplab.replay.faults import Fault, Interrupted, Stuck
from rumplab.replay.player import Listener, Player
from rumplab.replay.points import Points
from rumplab.replay.running import end_of
from rumplab.replay.search import HELD, Search
from rumplab.replay.stub import ANSWER_SECONDS, Hangup

TRIES = 3
THREAD = b"thread:01;"
STOPPED = b"T05" + THREAD
INTERRUPTED = b"T02" + THREAD
BEGIN = b"T05replaylog:begin;" + THREAD
END = b"T05replaylog:end;" + THREAD
Result = TypeVar("Result")


class Failed(Exception):
    """It can't be done; the session is where it was."""


class Follower:
    """A QEMU that goes after a search: to where the search begins, and from one stop that is found to the next, so that
    it is at the last one soon after that is known to be the last."""

    def __init__(self, fresh: Callable[[int], Player]) -> None:
        self._fresh = fresh
        self._player: Player | None = None
        # Where it is, or on its way to.
        self._target = 0
        self._goes = False

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def toward(self, position: int) -> None:
        """Has it go on to `position`, unless it is still on its way to an earlier one. Waits for nothing."""
        if position < self._target:
            self._drop()
        if position == self._target:
            return
        try:
            if self._player is None:
                self._player = self._fresh(0)
            if self._goes and self._player.stub.receive(0) is None:
                return
            self._player.hold_at(position)
            self._player.resume(b"c")
            self._goes, self._target = True, position
        except (Fault, Hangup):
            self._drop()

    def arrived(self, position: int) -> Player:
        """The QEMU at `position`, which is the caller's now; a fresh one where this one can't be there."""
        player, self._player = self._player, None
        if player is None:
            return self._fresh(position)
        try:
            if position >= self._target:
                if self._goes:
                    player.stop()
                player.go(position)
                return player
        except Fault:
            pass
        except BaseException:
            player.close()
            raise
        player.close()
        return self._fresh(position)

    def _drop(self) -> None:
        if self._player is not None:
            self._player.close()
        self._player, self._goes, self._target = None, False, 0


class Session:
    """A session with `recording`, at its beginning. `directory` is for QEMU's sockets, `listener` hears of the
    debugger's Ctrl-C while it waits."""

    def __init__(self, recording: Recording, directory: Path, listener: Listener) -> None:
        self._recording, self._directory, self._listener = recording, directory, listener
        self._numbers = itertools.count()
        self.total = end_of(recording).instructions
        # Behind the last instruction QEMU ends as it did then, by the guest's doing or by its user's: before it, never.
        self.end = self.total - 1
        self.points = Points()
        self.position = 0
        self._search = Search(self._passing, self.total)
        self.here = self._fresh(0)

    def close(self) -> None:
        self.here.close()

    def ask(self, data: bytes) -> bytes:
        """QEMU's answer to what doesn't let the guest run."""
        for _ in range(TRIES):
            try:
                return self.here.ask(data)
            except Fault:
                self._replace(self.position)
        raise Failed("QEMU gives no answer")

    def next_answer(self) -> bytes:
        """The next piece of an answer."""
        answer = self.here.stub.receive(ANSWER_SECONDS)
        if answer is None:
            raise Failed("QEMU gives no answer")
        return answer

    @property
    def pc(self) -> int:
        """The address of the next instruction."""
        return self.here.pc

    def set_point(self, packet: bytes) -> bytes:
        """Sets or clears a point, as the packet Z or z says."""
        answer = self.ask(packet)
        if answer == b"OK":
            self.points.note(packet)
        return answer

    def forget_points(self) -> None:
        self.points.clear()

    def forwards(self, packet: bytes) -> bytes:
        """Goes on as `packet` says (s or c), to the next stop or the recording's end."""
        if self.position >= self.end:
            return END
        return self._safely(lambda: self._forwards(packet))

    def _forwards(self, packet: bytes) -> bytes:
        here = self.here
        here.hold_at(self.end)
        here.resume(packet)
        with self._listener.passing(here.interrupt):
            said = here.stop()
        self.position = here.position
        if said.startswith(HELD):
            return END if self.position >= self.end else INTERRUPTED
        return said if packet == b"s" or search.reason(said) else self._met()

    def backwards_step(self) -> bytes:
        """One instruction back."""
        if self.position == 0:
            return BEGIN
        return self._safely(lambda: self._arrived(self.position - 1, STOPPED))

    def backwards(self) -> bytes:
        """Back to the last stop, or to the beginning."""
        return self._safely(self._backwards)

    def _backwards(self) -> bytes:
        with Follower(self._fresh) as follower:
            stop = self._search.before(self.points.sorted(), self.position, follower.toward)
            if stop is None:
                return BEGIN if self.position == 0 else self._arrived(0, BEGIN)
            self._enter(follower.arrived(stop.position), stop.position, met=not stop.reason)
        return b"T05" + stop.reason + THREAD if stop.reason else self._met()

    def go(self, position: int) -> bytes:
        """Goes to `position`, forwards or back."""
        return self._safely(lambda: self._arrived(min(position, self.end), STOPPED))

    def _arrived(self, position: int, report: bytes) -> bytes:
        self._return(position)
        return report

    def _met(self) -> bytes:
        """The report of a stop at a breakpoint."""
        return b"T05" + self.points.kind_at(self.here.pc) + THREAD

    def _return(self, position: int) -> None:
        """Puts a fresh QEMU where the debugger is, at `position`."""
        self._enter(self._fresh(position), position)

    def _replace(self, position: int) -> None:
        """The same for a QEMU that was lost: a Ctrl-C meanwhile has nothing to stop."""
        with self._listener.passing(lambda: None):
            self._return(position)

    def _enter(self, fresh: Player, position: int, met: bool = False) -> None:
        """Makes `fresh`, which stands at `position`, the debugger's, with the points that are set. It is closed if that
        fails. `met` says that a breakpoint is there."""
        try:
            if met and not self.points.kind_at(fresh.pc):
                fresh = self._met_at(fresh, position)
            fresh.insert(self.points.sorted())
        except BaseException:
            fresh.close()
            raise
        self.here.close()
        self.here, self.position = fresh, position

    def _met_at(self, before: Player, position: int) -> Player:
        """A QEMU that stands at the breakpoint met at `position`, where one that was led to it stands before an
        interrupt: at the same position, at another instruction."""
        before.close()
        fresh = self._fresh(max(position - 1, 0))
        try:
            points = self.points.sorted()
            fresh.insert(points)
            for packet in (b"c", b"s", b"c"):
                if fresh.position == position and self.points.kind_at(fresh.pc):
                    break
                fresh.resume(packet)
                fresh.stop()
            if fresh.position != position:
                raise Stuck(f"the breakpoint of instruction {position} isn't met again")
            fresh.remove(points)
        except BaseException:
            fresh.close()
            raise
        return fresh

    @contextlib.contextmanager
    def _passing(self, position: int) -> Iterator[Player]:
        """A QEMU at `position` that is gone with the block."""
        player = self._fresh(position)
        try:
            yield player
        finally:
            player.close()

    def _fresh(self, position: int) -> Player:
        """A QEMU that stands at `position`. A Fault where several haven't got there."""
        for left in reversed(range(TRIES)):
            player = None
            try:
                player = Player(self._recording, self._directory / str(next(self._numbers)), self._listener)
                player.go(position)
                return player
            except BaseException as error:
                if player is not None:
                    player.close()
                if not left or not isinstance(error, Fault):
                    raise
        raise Stuck("QEMU gives no answer")

    def _safely(self, movement: Callable[[], bytes]) -> bytes:
        """What `movement` reports. Where a QEMU is lost on the way, it begins anew from the same place; the debugger's
        Ctrl-C leaves the session there."""
        before = self.position
        fault: Fault | None = None
        for _ in range(TRIES):
            try:
                return movement()
            except Interrupted:
                return INTERRUPTED
            except Fault as error:
                fault = error
                self._replace(before)
        raise Failed(str(fault))
