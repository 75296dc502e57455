"""The errors of a QEMU that replays a run."""

from __future__ import annotations


class Fault(Exception):
    """The QEMU can't be used any longer."""


class Ended(Fault):
    """QEMU has ended: at the end of the recording, or after an error. `message` is its output."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"QEMU ended with status {status}{': ' + message if message else ''}")
        self.status = status


class Stuck(Fault):
    """QEMU doesn't answer, or executes no more instructions."""


class Interrupted(Exception):
    """The debugger's user has interrupted the wait."""


class Untrusted(Fault):
    """The snapshot from which QEMU should start is damaged, or QEMU doesn't continue from it as it should."""
