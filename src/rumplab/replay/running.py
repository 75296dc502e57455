"""Replays a recording from its beginning, and copies its console."""

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
# A hardware breakpoint on one byte, in the format of GDB's packet Z.
BREAKPOINT = b"1,%x,1"


@dataclass(frozen=True)
class Played:
    """The end of a replay: its position, the address of the next instruction (None if QEMU has ended), and the whole
    console."""

    position: int
    pc: int | None
    console: bytes


class Echo(Listener):
    """Copies the console's file to `output` while it grows."""

    def __init__(self, output: BinaryIO | None) -> None:
        self._output = output
        self.path: Path | None = None
        self.content = bytearray()

    def on_input(self) -> None:
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
    """Returns the end of a complete recording. ValueError if it isn't complete."""
    if recording.end is None:
        raise ValueError(f"{recording.name} has no end yet")
    return recording.end


def play(
    recording: Recording,
    until: int | None = None,
    address: int | None = None,
    output: BinaryIO | None = None,
    stall: float = STALL_SECONDS,
) -> Played:
    """Replays `recording` to its end, for `until` instructions, or to the first instruction at `address`, and writes
    the console to `output`. RumplabError if QEMU doesn't reach that, or makes no progress for `stall` seconds."""
    total = end_of(recording).instructions
    if until is not None and until > total:
        raise RumplabError(f"{recording.name} has only {total} instructions; use a smaller number with --until")
    echo = Echo(output)
    with work_directory("replay") as directory:
        try:
            with Player(recording, directory / "0", echo) as player:
                echo.path = player.console
                return run(player, echo, total, until, address, stall)
        except Fault as error:
            raise RumplabError(f"{recording.name} can't be replayed: {error}; try it again") from error


def run(player: Player, echo: Echo, total: int, until: int | None, address: int | None, stall: float) -> Played:
    """Does the same with `player`, which is at the beginning."""
    if address is not None:
        player.insert([BREAKPOINT % address])
    player.hold_at(total if until is None else until)
    try:
        player.resume(b"c")
        player.stop(stall)
        position, pc = player.position, player.pc
    except Ended as end:
        # The recorded run ended here too. QEMU may stop before that end, or exit at it.
        if until not in (None, total) or address is not None or end.failed:
            raise
        echo.on_input()
        return Played(total, None, bytes(echo.content))
    echo.on_input()
    if address is not None and pc != address:
        raise Stuck(f"it executes no instruction at {address:#x}")
    return Played(position, pc, bytes(echo.content))


def difference(recorded: bytes, played: bytes, whole: bool) -> str:
    """Returns a message about the first difference of two consoles, or an empty string. Unless `whole`, `played` may be
    shorter."""
    if recorded == played or (not whole and recorded.startswith(played)):
        return ""
    at = next(
        (number for number, (one, other) in enumerate(zip(recorded, played)) if one != other),
        min(len(recorded), len(played)),
    )
    line = recorded[:at].count(b"\n") + 1
    return f"its console differs from byte {at} (line {line}) on: {len(played)} bytes instead of {len(recorded)}"
