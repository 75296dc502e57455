"""Takes snapshots along a recording, and verifies each one before a replay may start from it.

Two QEMUs execute the run side by side. The *reference* executes it without interruption. The *scout* starts from the
previous snapshot. At the next position, both must have the same registers and the same memory: this verifies the
previous snapshot. Then the scout saves its state as the next one, and ends. A snapshot that leads to another state, or
to a QEMU that hangs, is dropped, and the next scout starts from the one before it.

``python -c … DIRECTORY EMULATOR QEMU-IMG``, the command from argv(), does this in the background of a debugger.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host.files import MIB, require_space, sha256, work_directory
from rumplab.host.process import interruptible, own_module
from rumplab.recording import code, command, devices, record, snapshots
from rumplab.recording.record import Recording
from rumplab.recording.removing import kept
from rumplab.recording.snapshots import CANDIDATE, Index, Leg, Snapshot
from rumplab.replay import state
from rumplab.replay.faults import Fault, Stuck, Untrusted
from rumplab.replay.player import NOBODY, Listener, Player
from rumplab.replay.running import end_of
from rumplab.replay.state import Start

# The largest number of snapshots, and the smallest distance between two: QEMU starts while it could execute that much.
MOST = 32
LEAST_DISTANCE = 1_000_000
# The most space for all snapshots of a recording.
MOST_BYTES = 4 << 30
# The free space that must remain.
RESERVE = 64 * MIB
# QEMU refuses to save its state while it waits for a disk; it is asked again this number of instructions later.
LATER = (0, 1, 10, 100, 1000, 10_000, 100_000)
REFUSAL = "Try once more later"
# After this number of bad snapshots, the machine's state can't be saved in general.
MOST_FAILURES = 3
# The longest time without progress of a QEMU that started at a snapshot.
SCOUT_SECONDS = 30.0
NICENESS = 10
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """A snapshot that is not verified yet, in `directory`."""

    position: int
    registers: str
    directory: Path


def distance(total: int, most: int = MOST, least: int = LEAST_DISTANCE) -> int:
    """Returns the distance between two snapshots in a recording of `total` instructions."""
    return max(-(-total // (most + 1)), least)


def positions(every: int, begin: int, total: int) -> Iterator[int]:
    """Yields the multiples of `every` after `begin` at which a snapshot helps."""
    yield from range(begin - begin % every + every, total - every // 2, every)


def never(recording: Recording) -> str:
    """Returns why no snapshot of the recorded machine is possible, or an empty string."""
    for model in devices.NEVER_RESTORED:
        if any(word.startswith(f"{model},") for word in recording.argv):
            return f"QEMU can't restore the state of an {model}"
    return ""


def ignore(_: int, __: int) -> None:
    """Ignores the progress."""


def lay(recording: Recording, qemu_img: str, report: Report = ignore, listener: Listener = NOBODY) -> Index:
    """Takes the snapshots that `recording` doesn't have yet, and returns the index. Calls `report` with the position
    and the number of snapshots. RumplabError if another process does so, or if there is no space; the snapshots that
    were verified before remain."""
    with snapshots.writing(recording), work_directory("replay") as work:
        index = snapshots.read(recording)
        if index.complete:
            return index
        if not index.snapshots:
            snapshots.clear(recording)
        index = replace(index, every=index.every or distance(end_of(recording).instructions))
        reason = never(recording)
        if reason:
            index = replace(index, complete=True, reason=reason)
            snapshots.write(recording, index)
            return index
        with contextlib.closing(Layer(recording, qemu_img, work, index, report, listener)) as layer:
            try:
                layer.run()
            except OSError as error:
                raise RumplabError(f"cannot write in {snapshots.root(recording)}: {error.strerror}") from error
            except Fault as error:
                raise RumplabError(f"{recording.name} can't be replayed: {error}; try it again") from error
            return layer.index


class Layer:
    """Takes the snapshots of one recording. The directory `work` is for the QEMUs."""

    def __init__(
        self, recording: Recording, qemu_img: str, work: Path, index: Index, report: Report, listener: Listener
    ) -> None:
        self._recording, self._qemu_img, self._work = recording, qemu_img, work
        self._report, self._listener = report, listener
        self._total = end_of(recording).instructions
        # The QEMUs that run, with the files of each.
        self._running: dict[Player, Start] = {}
        # Where each scout started.
        self._began: dict[Player, int] = {}
        self._number = 0
        self._failures = 0
        self._candidate: Candidate | None = None
        self.index = index

    def close(self) -> None:
        for player in list(self._running):
            self._end(player)
        self._forget()

    def run(self) -> None:
        """Takes all snapshots. OSError, RumplabError; Fault if the recording can't be replayed."""
        reference = self._reference()
        reason = ""
        position = reference.position
        # QEMU may end a little before the last instruction that the log counts.
        last = self._total - self.index.every // 4
        while position < last and not reason:
            position = next(positions(self.index.every, position, self._total), last)
            scout = self._scout(reference, position)
            if scout is None:
                reason = f"{MOST_FAILURES} snapshots led to another state"
                break
            self._accept()
            if position < last:
                reason = self._save(scout)
            end = scout.position
            self._end(scout)
            self._keep_code(scout, end)
            self._report(position, len(self.index.snapshots))
        self.index = replace(self.index, complete=True, reason=reason)
        snapshots.write(self._recording, self.index)

    def _reference(self) -> Player:
        """Returns the reference. It continues after the snapshots of an earlier process."""
        while self.index.snapshots:
            with contextlib.suppress(Untrusted):
                return self._player(self.index.snapshots[-1])
            self._drop(self.index.snapshots[-1])
        return self._player(None)

    @property
    def _newest(self) -> Candidate | Snapshot | None:
        """Returns where the next scout starts; None for the beginning."""
        return self._candidate or (self.index.snapshots[-1] if self.index.snapshots else None)

    def _scout(self, reference: Player, position: int) -> Player | None:
        """Leads the reference and a scout to `position`, and returns the scout when both agree; None after too many
        snapshots that lead elsewhere."""
        reference.set_out(position)
        scout = self._led(position)
        reference.arrive(position)
        there = self._digest(reference)
        while scout is None or self._digest(scout) != there:
            if scout is not None:
                self._end(scout)
            if self._newest is None:
                raise Stuck(f"two replays differ at instruction {position}")
            self._distrust()
            if self._failures == MOST_FAILURES:
                return None
            scout = self._led(position)
        return scout

    def _led(self, position: int) -> Player | None:
        """Returns a QEMU at `position` that started at the newest snapshot; None if that fails."""
        begin = self._newest
        scout = None
        try:
            scout = self._player(begin, logs=True)
            self._began[scout] = begin.position if begin else 0
            if scout.set_out(position):
                scout.arrive(position, SCOUT_SECONDS)
            return scout
        except Fault:
            if scout is not None:
                self._end(scout)
            # Without a snapshot, it must work.
            if begin is None:
                raise
            return None

    def _distrust(self) -> None:
        """Drops the snapshot from which the scout started."""
        self._failures += 1
        if self._candidate is not None:
            self._forget()
        else:
            self._drop(self.index.snapshots[-1])

    def _keep_code(self, scout: Player, end: int) -> None:
        """Writes the code of the leg that `scout` has executed, and adds the leg to the index."""
        log = self._work / f"{scout.directory.name}.code"
        leg = Leg(self._began.pop(scout), end, "")
        path = snapshots.code_file(self._recording, leg)
        code.logged(log).write(path)
        log.unlink()
        # An earlier process may have executed the same leg.
        others = [one for one in self.index.legs if (one.begin, one.end) != (leg.begin, leg.end)]
        self.index = replace(self.index, legs=(*others, replace(leg, code=sha256(path))))
        snapshots.write(self._recording, self.index)

    def _forget(self) -> None:
        """Drops the candidate."""
        if self._candidate is not None:
            shutil.rmtree(self._candidate.directory, ignore_errors=True)
        self._candidate = None

    def _player(self, begin: Candidate | Snapshot | None, logs: bool = False) -> Player:
        """Starts a QEMU at `begin`, or at the beginning, with files of its own, in which it can save its state. With
        `logs`, it logs the code."""
        name = str(self._number)
        self._number += 1
        files = snapshots.root(self._recording) / f"{CANDIDATE}{name}"
        files.mkdir(0o700)
        log = self._work / f"{name}.code" if logs else None
        start = Start(files, begin is not None, self._work / f"{name}.memory", log)
        try:
            if isinstance(begin, Snapshot):
                state.copy_verified(snapshots.place(self._recording, begin), begin.files, files)
            elif begin is not None:
                state.copy(begin.directory, [path.name for path in begin.directory.iterdir()], files)
            else:
                argv = command.replay_argv(self._recording, "")
                state.create(self._qemu_img, argv, self._recording.directory, files)
            player = Player(self._recording, self._work / name, self._listener, start)
        except BaseException:
            shutil.rmtree(files, ignore_errors=True)
            raise
        self._running[player] = start
        try:
            if begin is not None:
                player.require_at(begin.position, begin.registers)
        except BaseException:
            self._end(player)
            raise
        return player

    def _end(self, player: Player) -> None:
        """Ends a QEMU and removes its files, unless they are the candidate."""
        player.close()
        start = self._running.pop(player)
        if start.memory is not None:
            start.memory.unlink(missing_ok=True)
        if self._candidate is None or self._candidate.directory != start.directory:
            shutil.rmtree(start.directory, ignore_errors=True)

    def _digest(self, player: Player) -> tuple[str, str]:
        """Returns the hashes of the registers and of the memory."""
        memory = self._running[player].memory
        return player.registers, state.memory_digest(memory) if memory else ""

    def _save(self, scout: Player) -> str:
        """Makes the state of `scout`, or the one a few instructions later, the candidate. Returns QEMU's message if it
        can't save the state."""
        start = self._running[scout]
        require_space(start.directory, RESERVE + state.allocated(start.memory), "the state of the machine")
        said = ""
        for more in LATER:
            scout.go(min(scout.position + more, self._total - 1))
            said = scout.save()
            if REFUSAL not in said:
                break
        if not said:
            self._candidate = Candidate(scout.position, scout.registers, start.directory)
        return said

    def _accept(self) -> None:
        """Makes the candidate, from which the last scout has started, a snapshot."""
        one, self._candidate = self._candidate, None
        if one is None:
            return
        files = {path.name: sha256(path) for path in one.directory.iterdir()}
        snapshot = Snapshot(one.position, one.registers, files)
        one.directory.rename(snapshots.place(self._recording, snapshot))
        self.index = self.index.with_snapshot(snapshot)
        snapshots.write(self._recording, self.index)
        self._thin()

    def _thin(self) -> None:
        """If the snapshots take too much space, removes every second one, and doubles the distance."""
        if snapshots.size(self._recording.directory) <= MOST_BYTES or len(self.index.snapshots) < 2:
            return
        self.index = replace(self.index, every=2 * self.index.every)
        for one in self.index.snapshots[-2::-2]:
            self._drop(one)

    def _drop(self, snapshot: Snapshot) -> None:
        self.index = self.index.without(snapshot)
        snapshots.write(self._recording, self.index)
        shutil.rmtree(snapshots.place(self._recording, snapshot), ignore_errors=True)


def argv(recording: Recording, qemu_img: str) -> list[str]:
    """Returns the command that takes the snapshots of `recording`."""
    return own_module("rumplab.replay.laying", *recording.words(), qemu_img)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command from argv(). The debugger has verified the recording before."""
    *words, qemu_img = arguments
    # A terminal sends Ctrl-C to all its processes; the relay ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    try:
        recording = record.reopened(words)
        with interruptible(), kept(recording.directory):
            lay(recording, qemu_img)
    except RumplabError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0
