"""The errors of a QEMU that replays a run."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Fault(Exception):
    """The QEMU can't be used any longer."""


# QEMU's messages about a log that it can't replay. Its exit status then is 1, which a guest can cause, too.
LOG_ERROR = re.compile("replay(:| data| log)", re.IGNORECASE)


class Ended(Fault):
    """QEMU has ended: at the end of the recording, or after an error (`failed`). `lines` are its output."""

    def __init__(self, status: int, lines: Sequence[str]) -> None:
        about = [line for line in lines if LOG_ERROR.search(line)]
        message = next(iter([*about, *lines]), "")
        super().__init__(f"QEMU ended with status {status}{': ' + message if message else ''}")
        self.status = status
        self.failed = status < 0 or bool(about)


class Stuck(Fault):
    """QEMU doesn't answer, or executes no more instructions."""


class Interrupted(Exception):
    """The debugger's user has interrupted the wait."""


class Untrusted(Fault):
    """The snapshot from which QEMU should start is damaged, or QEMU doesn't continue from it as it should."""
