"""The base class of all kinds of run, the kinds of fault, and functions that find and end the processes of a run."""

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

# The kinds of fault; they are the last columns of the table, and docs/development/testing.md describes them.
CORRUPT, LEAKED, LEFT, WAITED, HAND_WORK = "corrupt", "leaked", "left", "waited", "hand work"
FAULTS = (CORRUPT, LEAKED, LEFT, WAITED, HAND_WORK)
# Seconds in which the processes that a killed run has started may end.
MOMENT = 5.0


class Fault(Exception):
    """A state of the lab that must not occur. `kind` is one of FAULTS, the text is what was observed."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Unsupported(Exception):
    """This host doesn't support that kind of run; the text is the reason."""


class Row(ABC):
    """One kind of run, and one row of the table. Only this kind uses `directory`, until the program ends."""

    name: str
    what: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runs = self.kills = self.repaired = 0
        self.faults = dict.fromkeys(FAULTS, 0)
        # The seconds of a run that isn't disturbed; `moment` chooses within them.
        self.usual = 0.0

    @abstractmethod
    def prepare(self) -> None:
        """Make what all runs use, and measure `usual`. Raise Unsupported if this host lacks something."""

    @abstractmethod
    def run(self, chance: random.Random, place: Path) -> None:
        """Run once in the empty directory `place`. Raise Fault if the checks afterwards fail."""

    @abstractmethod
    def end(self) -> None:
        """Remove what `prepare` made."""

    def moment(self, chance: random.Random) -> float:
        """Return the seconds after which to disturb the run; a few are later than its end."""
        return chance.uniform(0.2, 1.1) * self.usual

    def kill(self, process: subprocess.Popen[bytes], whole: bool) -> bool:
        """Kill a process, or its whole process group. Return False if the process had ended before."""
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
    """Return the running processes that have a path below `place` in command line, environment or working directory."""
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
    """Return the ids and command lines of processes, for a message."""
    return "; ".join(f"{pid} {_text(pid, 'cmdline').replace(bytes(1), b' ').decode(errors='replace')}" for pid in pids)


def eventually(condition: Callable[[], bool], seconds: float = MOMENT) -> bool:
    """Return whether the condition becomes true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def none_left(place: Path) -> None:
    """Raise Fault(LEAKED) if processes of a run are still there after MOMENT seconds."""
    if not eventually(lambda: not processes_of(place)):
        raise Fault(LEAKED, f"left running: {shown(processes_of(place))}")


def kill_all(place: Path) -> None:
    """Kill the processes that a faulty run has left, so that they don't count as faults of the next run."""
    for _ in range(20):
        for pid in processes_of(place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not processes_of(place):
            return
        time.sleep(0.05)
