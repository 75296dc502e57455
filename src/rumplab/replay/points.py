"""The breakpoints and watchpoints that GDB has set, in the format of its packets: KIND,ADDRESS,SIZE."""

from __future__ import annotations

# The stop reason in a stop reply, by the kind of a breakpoint: software or hardware.
BREAKPOINTS = {b"0": b"swbreak:;", b"1": b"hwbreak:;"}


class Points:
    def __init__(self) -> None:
        self._points: dict[bytes, None] = {}

    def note(self, packet: bytes) -> None:
        """Records a packet that QEMU has accepted: Z sets, z clears. Drops conditions, which QEMU doesn't support."""
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
        """Returns the stop reason for a breakpoint at `address`; empty if there is none."""
        for point in self._points:
            kind, where, _ = point.split(b",")
            if kind in BREAKPOINTS and int(where, 16) == address:
                return BREAKPOINTS[kind]
        return b""
