"""Repeating a recording from its beginning, and what it writes to its console on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rumplab.errors import RumplabError
from rumplab.host.files import work_directory
from rumplab.recording.record import End, Recording
from rumplab.replay.faults import Ended, Fault, Stuck
from rumplab.replay.player import STALL_SECONDS, Listener, Player

PIECE = 1 << 16
# A point of GDB's protocol: a hardware breakpoint on one byte.
BREAKPOINT = b"1,%x,1"


@dataclass(frozen=True)
class Played:
    """Where a replay has stopped, at which address (None where QEMU has ended with its guest), and its whole
    console."""

    position: int
    pc: int | None
    console: bytes


class Echo(Listener):
    """Copies a console's file to `output` as it grows."""

    def __init__(self, output: BinaryIO | None) -> None:
        self._output = output
        self.path: Path | None = None
        self.content = bytearray()

    def heard(self) -> None:
        if self.path is None or not self.path.exists():
            return
        with self.path.open("rb") as handle:
            handle.seek(len(self.content))
            while piece := handle.read(PIECE):
                self.content += piece
                if self._output is not None:
                    self._output.write(piece)
                    self._output.flush()


def end_of(recording: Recording) -> End:
    """The end of a recording that is settled."""
    if recording.end is None:
        raise ValueError(f"{recording.name} isn't settled")
    return recording.end


def play(
    recording: Recording,
    until: int | None = None,
    address: int | None = None,
    output: BinaryIO | None = None,
    stall: float = STALL_SECONDS,
) -> Played:
    """Repeats `recording` to its end, to the instruction `until`, or to the first one at `address`, and writes its
    console to `output`. RumplabError when QEMU doesn't get there, or stands for `stall` seconds."""
    total = end_of(recording).instructions
    if until is not None and until > total:
        raise RumplabError(f"{recording.name} has {total} instructions, so it never comes to {until}")
    echo = Echo(output)
    with work_directory("replay") as directory:
        try:
            with Player(recording, directory / "0", echo) as player:
                echo.path = player.console
                return run(player, echo, total, until, address, stall)
        except Fault as error:
            raise RumplabError(f"{recording.name} can't be replayed: {error}") from error


def run(player: Player, echo: Echo, total: int, until: int | None, address: int | None, stall: float) -> Played:
    """The same with a QEMU that stands at the beginning."""
    if address is not None:
        player.insert([BREAKPOINT % address])
    player.hold_at(total if until is None else until)
    try:
        player.resume(b"c")
        player.stop(stall)
        position, pc = player.position, player.pc
    except Ended:
        # As it was when it was recorded. Whoever ended it then, QEMU may stop first, or not.
        if until not in (None, total) or address is not None:
            raise
        echo.heard()
        return Played(total, None, bytes(echo.content))
    echo.heard()
    if address is not None and pc != address:
        raise Stuck(f"it never comes to {address:#x}")
    return Played(position, pc, bytes(echo.content))


def difference(recorded: bytes, played: bytes, whole: bool) -> str:
    """How two consoles differ, in words; nothing when they don't. One that isn't `whole` may be shorter."""
    if recorded == played or (not whole and recorded.startswith(played)):
        return ""
    at = next(
        (number for number, (one, other) in enumerate(zip(recorded, played)) if one != other),
        min(len(recorded), len(played)),
    )
    line = recorded[:at].count(b"\n") + 1
    return f"its console differs from byte {at} (line {line}) on: {len(played)} bytes now, {len(recorded)} recorded"
