"""What can become of a QEMU that repeats a run."""

from __future__ import annotations


class Fault(Exception):
    """It can't be used any longer."""


class Ended(Fault):
    """QEMU has ended by itself: as its guest did at the end of the recording, or for a fault of its own. `said` is
    what it printed."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"QEMU ended with status {status}{': ' + said if said else ''}")
        self.status = status


class Stuck(Fault):
    """QEMU doesn't answer, or gets no further."""


class Interrupted(Exception):
    """Somebody wants the wait to end."""
