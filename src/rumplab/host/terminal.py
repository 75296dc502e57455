"""The terminal of this process."""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Iterator

STDIN = 0


@contextlib.contextmanager
def terminal_restored() -> Iterator[None]:
    """Restores the terminal's settings at the end of the block: a QEMU that was killed leaves its own."""
    if not os.isatty(STDIN):
        yield
        return
    settings = termios.tcgetattr(STDIN)
    try:
        yield
    finally:
        # A terminal that has hung up has no settings any more.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(STDIN, termios.TCSADRAIN, settings)
