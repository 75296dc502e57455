"""The output of ``--trace``: the packets of both protocols side by side."""

from __future__ import annotations

import time
from collections.abc import Callable

from rumplab.ipkdb.decode import describe, printable
from rumplab.ipkdb.packet import Packet

COLUMN = 44


class Trace:
    """Calls `write` with a line for each packet: GDB's on the left, IPKDB's on the right. `clock` returns seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._start = clock()

    def gdb(self, direction: str, data: bytes) -> None:
        """A packet between GDB and the translator. `direction` is '>' from GDB and '<' to GDB."""
        text = printable(data)
        self._line(f"{direction} {text if len(text) <= COLUMN - 2 else text[: COLUMN - 3] + '…'}", "")

    def wire(self, direction: str, one: Packet) -> None:
        """A packet between the translator and the target. `direction` is '>' to the target and '<' from it."""
        self._line("", f"{direction} {one.seq} {describe(one.data)}")

    def _line(self, left: str, right: str) -> None:
        self._write(f"{self._clock() - self._start:9.4f}  {left:{COLUMN}} | {right}".rstrip())
