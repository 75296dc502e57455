"""The terminal that this process is on."""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Iterator

STDIN = 0


@contextlib.contextmanager
def terminal_restored() -> Iterator[None]:
    """Puts the terminal's settings back at the end, which a QEMU that was killed can't do."""
    if not os.isatty(STDIN):
        yield
        return
    settings = termios.tcgetattr(STDIN)
    try:
        yield
    finally:
        # After a terminal has hung up there are none to put back.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(STDIN, termios.TCSADRAIN, settings)
