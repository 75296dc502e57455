"""The break- and watchpoints that a debugger has set, as its packets name them: KIND,ADDRESS,SIZE."""

from __future__ import annotations

# What GDB is told of a stop at one, by its kind: an instruction in memory, or a register of the processor's.
BREAKPOINTS = {b"0": b"swbreak:;", b"1": b"hwbreak:;"}


class Points:
    def __init__(self) -> None:
        self._points: dict[bytes, None] = {}

    def note(self, packet: bytes) -> None:
        """Takes a packet that has been done: Z sets, z clears. Conditions, which QEMU has none of, are left out."""
        point = packet[1:].partition(b";")[0]
        if packet[:1] == b"Z":
            self._points[point] = None
        else:
            self._points.pop(point, None)

    def clear(self) -> None:
        self._points.clear()

    def sorted(self) -> list[bytes]:
        return sorted(self._points)

    def kind_at(self, address: int) -> bytes:
        """What a report says of a breakpoint at `address`; nothing where there is none."""
        for point in self._points:
            kind, where, _ = point.split(b",")
            if kind in BREAKPOINTS and int(where, 16) == address:
                return BREAKPOINTS[kind]
        return b""
