"""A debugger's session with a recording: one QEMU at the debugger's position, and others for reverse execution.

Each movement returns a stop reply of GDB's protocol. If a QEMU gives no answer, the session replaces it with another
one at the same position. After several failures, it raises an error and keeps its position.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rumplab.recording import snapshots
from rumplab.recording.record import Recording
from rumplab.recording.snapshots import Snapshot
from rumplab.replay import search
from rumplab.replay.faults import Fault, Interrupted, Stuck, Untrusted
from rumplab.replay.player import Listener, Player
from rumplab.replay.points import Points
from rumplab.replay.running import end_of
from rumplab.replay.search import HELD, Search
from rumplab.replay.starts import Starts
from rumplab.replay.state import Start, copy_verified
from rumplab.replay.stub import ANSWER_SECONDS, Hangup

TRIES = 3
THREAD = b"thread:01;"
STOPPED = b"T05" + THREAD
INTERRUPTED = b"T02" + THREAD
BEGIN = b"T05replaylog:begin;" + THREAD
END = b"T05replaylog:end;" + THREAD
Result = TypeVar("Result")


class Failed(Exception):
    """A movement or a packet failed; the session's position is unchanged."""


class Follower:
    """A QEMU that follows a search from stop to stop, so that it soon reaches the last one after the search has
    ended."""

    def __init__(self, fresh: Callable[[int], Player], aligned: Callable[[int], int]) -> None:
        self._fresh, self._aligned = fresh, aligned
        self._player: Player | None = None
        # Its position, or the position that it executes up to.
        self._target = 0
        self._runs = False

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def toward(self, position: int) -> None:
        """Makes QEMU execute up to `position`, unless it still executes up to an earlier one. Doesn't wait."""
        # A start at a snapshot between the two positions is quicker.
        if position < self._target or self._aligned(position) > self._target:
            self._drop()
        if self._player is not None and position == self._target:
            return
        try:
            if self._player is None:
                self._target = self._aligned(position)
                self._player = self._fresh(self._target)
                if self._target == position:
                    return
            if self._runs and self._player.stub.receive(0) is None:
                return
            self._player.hold_at(position)
            self._player.resume(b"c")
            self._runs, self._target = True, position
        except (Fault, Hangup):
            self._drop()

    def arrived(self, position: int) -> Player:
        """Returns a QEMU at `position`, this one or a new one, which the caller must close."""
        player, self._player = self._player, None
        if player is None:
            return self._fresh(position)
        try:
            if position >= self._target:
                if self._runs:
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
        self._player, self._runs, self._target = None, False, 0


class Session:
    """A session with `recording`, which starts at the beginning. QEMU's sockets are in `directory`. The `listener`
    notices the debugger's Ctrl-C during a wait."""

    def __init__(self, recording: Recording, directory: Path, listener: Listener) -> None:
        self._recording, self._directory, self._listener = recording, directory, listener
        self._numbers = itertools.count()
        self.total = end_of(recording).instructions
        # At the last instruction, QEMU ends as the recorded run did; before it, QEMU never ends.
        self.end = self.total - 1
        self.points = Points()
        self.position = 0
        # Whether QEMU will report the last stop again.
        self._repeats = False
        self._starts = Starts(recording)
        self._search = Search(self._temporary, self.total, self._starts.aligned, quiet_from=self._starts.quiet_from)
        self.here = self._fresh(0)

    def close(self) -> None:
        self.here.close()

    def ask(self, data: bytes) -> bytes:
        """Returns QEMU's answer to a packet that doesn't make the guest run."""
        for _ in range(TRIES):
            try:
                return self.here.ask(data)
            except Fault:
                self._replace(self.position)
        raise Failed("QEMU gives no answer")

    def next_answer(self) -> bytes:
        """Returns the next packet of an answer."""
        answer = self.here.stub.receive(ANSWER_SECONDS)
        if answer is None:
            raise Failed("QEMU gives no answer")
        return answer

    @property
    def at_end(self) -> bool:
        """Returns whether only reverse execution goes on."""
        return self.position >= self.end

    @property
    def pc(self) -> int:
        """Returns the address of the next instruction."""
        return self.here.pc

    def set_point(self, packet: bytes) -> bytes:
        """Passes the packet Z or z to QEMU, and returns its answer."""
        answer = self.ask(packet)
        if answer == b"OK":
            self.points.note(packet)
        return answer

    def forget_points(self) -> None:
        self.points.clear()

    def forwards(self, packet: bytes) -> bytes:
        """Executes `packet` (s or c) to the next stop or to the recording's end.

        GDB may make a step in order to get past a breakpoint of its own. If it is then told of the end, it waits for
        the end of that step for ever. So a step that reaches the end only stops, and a step at the end is reported as
        interrupted.
        """
        if self.at_end:
            return INTERRUPTED if packet == b"s" else END
        return self._with_retries(lambda: self._forwards(packet))

    def _forwards(self, packet: bytes) -> bytes:
        here, repeats = self.here, self._repeats
        here.hold_at(self.end)
        said = self._resumed(packet)
        if repeats and here.position == self.position and not said.startswith(HELD):
            said = self._resumed(packet)
        self.position = here.position
        # After a step that a watchpoint ended, QEMU reports the end of the step as one more stop.
        self._repeats = packet == b"s" and bool(search.reason(said))
        if said.startswith(HELD):
            if not self.at_end:
                return INTERRUPTED
            return STOPPED if packet == b"s" else END
        return said if packet == b"s" or search.reason(said) else self._breakpoint_reply()

    def _resumed(self, packet: bytes) -> bytes:
        """Resumes the debugger's QEMU and returns its stop reply."""
        self.here.resume(packet)
        with self._listener.interruptible(self.here.interrupt):
            return self.here.stop()

    def backwards_step(self) -> bytes:
        """Goes back by one instruction."""
        if self.position == 0:
            return BEGIN
        return self._with_retries(lambda: self._moved(self.position - 1, STOPPED))

    def backwards(self) -> bytes:
        """Goes back to the last stop, or to the beginning."""
        return self._with_retries(self._backwards)

    def _backwards(self) -> bytes:
        with Follower(self._fresh, self._starts.aligned) as follower:
            stop = self._search.before(self.points.sorted(), self.position, follower.toward)
            if stop is None:
                return BEGIN if self.position == 0 else self._moved(0, BEGIN)
            self._enter(follower.arrived(stop.position), stop.position, met=not stop.reason)
        return b"T05" + stop.reason + THREAD if stop.reason else self._breakpoint_reply()

    def go(self, position: int) -> bytes:
        """Goes forwards or back to `position`."""
        return self._with_retries(lambda: self._moved(min(position, self.end), STOPPED))

    def _moved(self, position: int, report: bytes) -> bytes:
        self._return(position)
        return report

    def _breakpoint_reply(self) -> bytes:
        """Returns the stop reply at a breakpoint."""
        return b"T05" + self.points.kind_at(self.here.pc) + THREAD

    def _return(self, position: int) -> None:
        """Starts a new QEMU at `position` for the debugger."""
        self._enter(self._fresh(position), position)

    def _replace(self, position: int) -> None:
        """Does the same after the QEMU was lost. Ignores Ctrl-C meanwhile, since there is nothing to stop."""
        with self._listener.interruptible(lambda: None):
            self._return(position)

    def _enter(self, fresh: Player, position: int, met: bool = False) -> None:
        """Makes `fresh`, at `position`, the debugger's QEMU, with all breakpoints and watchpoints. Closes it after an
        error. `met` says that there is a breakpoint at that position."""
        repeats = False
        try:
            if met and not self.points.kind_at(fresh.pc):
                fresh, repeats = self._at_breakpoint(fresh, position)
            fresh.insert(self.points.sorted())
        except BaseException:
            fresh.close()
            raise
        self.here.close()
        self.here, self.position, self._repeats = fresh, position, repeats

    def _at_breakpoint(self, before: Player, position: int) -> tuple[Player, bool]:
        """Returns a QEMU at the breakpoint at `position`. With an interrupt at this position, a QEMU that was led there
        by replay-break, such as `before`, stops before the interrupt, at another instruction. Also returns whether QEMU
        will report the last stop again."""
        before.close()
        fresh = self._fresh(max(position - 1, 0))
        try:
            points = self.points.sorted()
            fresh.insert(points)
            repeats = False
            for packet in (b"c", b"s", b"c"):
                if fresh.position == position and self.points.kind_at(fresh.pc):
                    break
                fresh.resume(packet)
                repeats = bool(search.reason(fresh.stop())) and packet == b"s"
            if fresh.position != position:
                raise Stuck(f"QEMU does not stop again at the breakpoint at instruction {position}")
            fresh.remove(points)
        except BaseException:
            fresh.close()
            raise
        return fresh, repeats

    @contextlib.contextmanager
    def _temporary(self, position: int) -> Iterator[Player]:
        """Yields a new QEMU at `position`, and closes it after the block."""
        player = self._fresh(position)
        try:
            yield player
        finally:
            player.close()

    def _fresh(self, position: int) -> Player:
        """Returns a new QEMU at `position`. Fault if several attempts fail."""
        left = TRIES
        while True:
            player = None
            snapshot = self._starts.before(position)
            try:
                player = self._started(snapshot)
                player.go(position)
                return player
            except BaseException as error:
                if player is not None:
                    player.close()
                if snapshot is not None and isinstance(error, Untrusted):
                    self._starts.distrust(snapshot)
                    continue
                left -= 1
                if not left or not isinstance(error, Fault):
                    raise
                # The second time, the snapshot may be the reason.
                if snapshot is not None and left == 1:
                    self._starts.distrust(snapshot)

    def _started(self, snapshot: Snapshot | None) -> Player:
        """Returns a new QEMU at `snapshot`; at the beginning if that is None."""
        number = next(self._numbers)
        directory = self._directory / str(number)
        if snapshot is None:
            return Player(self._recording, directory, self._listener)
        # QEMU keeps the files open.
        files = self._directory / f"{number}.snapshot"
        files.mkdir(0o700)
        try:
            copy_verified(snapshots.place(self._recording, snapshot), snapshot.files, files)
            player = Player(self._recording, directory, self._listener, Start(files, loads=True))
        finally:
            shutil.rmtree(files, ignore_errors=True)
        try:
            player.require_at(snapshot.position, snapshot.registers)
        except BaseException:
            player.close()
            raise
        return player

    def _with_retries(self, movement: Callable[[], bytes]) -> bytes:
        """Returns the result of `movement`. If a QEMU is lost meanwhile, tries again from the same position. After the
        debugger's Ctrl-C, the session stays there."""
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
