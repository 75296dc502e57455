"""Both protocols side by side: what ``--trace`` prints."""

from __future__ import annotations

import time
from collections.abc import Callable

from rumplab.ipkdb.decode import describe, printable
from rumplab.ipkdb.packet import Packet

COLUMN = 44


class Trace:
    """Prints a line for each packet by `write`: GDB's on the left, IPKDB's on the right. `clock` counts seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._start = clock()

    def gdb(self, direction: str, data: bytes) -> None:
        """`direction` is '>' from GDB and '<' to it."""
        text = printable(data)
        self._line(f"{direction} {text if len(text) <= COLUMN - 2 else text[: COLUMN - 3] + '…'}", "")

    def wire(self, direction: str, one: Packet) -> None:
        """`direction` is '>' to the target and '<' from it."""
        self._line("", f"{direction} {one.seq} {describe(one.data)}")

    def _line(self, left: str, right: str) -> None:
        self._write(f"{self._clock() - self._start:9.4f}  {left:{COLUMN}} | {right}".rstrip())
