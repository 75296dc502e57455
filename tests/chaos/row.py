"""What all kinds of run share: counts, faults, and the processes that a run has left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

# The kinds of fault, which are the last columns of the table.
CORRUPT, LEAKED, LEFT, WAITED, HAND_WORK = "corrupt", "leaked", "left", "waited", "hand work"
FAULTS = (CORRUPT, LEAKED, LEFT, WAITED, HAND_WORK)
# What may outlive the one that was killed for a moment: it is being ended.
MOMENT = 5.0


class Fault(Exception):
    """Something that must not be: its kind and what was seen."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Unable(Exception):
    """This host can't do that kind of run, and why."""


class Row(ABC):
    """One kind of run. `directory` is its own, for as long as the program lives."""

    name: str
    what: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runs = self.kills = self.repaired = 0
        self.faults = dict.fromkeys(FAULTS, 0)
        # How long one takes that nobody disturbs: moments are chosen within that.
        self.usual = 0.0

    @abstractmethod
    def prepare(self) -> None:
        """Make what all runs use; Unable where this host can't. Measures `usual`."""

    @abstractmethod
    def run(self, chance: random.Random, place: Path) -> None:
        """One run in the empty directory `place`; Fault where something is wrong afterwards."""

    @abstractmethod
    def end(self) -> None:
        """Take away what `prepare` made."""

    def moment(self, chance: random.Random) -> float:
        """A moment at which to disturb; a few come after the end."""
        return chance.uniform(0.2, 1.1) * self.usual

    def kill(self, process: subprocess.Popen[bytes], whole: bool) -> bool:
        """Kill a process, or the whole of its session's group; False where it had ended."""
        if process.poll() is not None:
            return False
        (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
        process.wait(MOMENT)
        self.kills += 1
        return True


def _text(pid: int, what: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_bytes()
    return b""


def processes_of(place: Path) -> list[int]:
    """The living processes that have a path below `place` in their command line, environment or working directory."""
    mark, found = os.fsencode(place), []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        pid = int(entry)
        state = _text(pid, "stat").rpartition(b")")[2].split()
        if not state or state[0] in (b"Z", b"X"):
            continue
        here = b""
        with contextlib.suppress(OSError):
            here = os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
        if any(mark in text for text in (_text(pid, "cmdline"), _text(pid, "environ"), here)):
            found.append(pid)
    return found


def shown(pids: Iterable[int]) -> str:
    """Processes, for people."""
    return "; ".join(f"{pid} {_text(pid, 'cmdline').replace(bytes(1), b' ').decode(errors='replace')}" for pid in pids)


def eventually(condition: Callable[[], bool], seconds: float = MOMENT) -> bool:
    """Whether a condition comes true within a time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def none_left(place: Path) -> None:
    """LEAKED where processes of a run outlive it."""
    if not eventually(lambda: not processes_of(place)):
        raise Fault(LEAKED, f"left running: {shown(processes_of(place))}")


def end_all(place: Path) -> None:
    """End what a faulty run has left, so that it doesn't stand for faults of the next one."""
    for _ in range(20):
        for pid in processes_of(place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not processes_of(place):
            return
        time.sleep(0.05)
