"""Breakpoints at an interrupt, where two instructions have the same position. The BIOS has interrupts."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.relayclient import RelayClient
from support.staging import needs_compiler, needs_qemu

from rumplab.recording import log
from rumplab.recording.record import Recording
from rumplab.replay.player import Player
from rumplab.replay.search import HELD

pytestmark = [needs_qemu, needs_compiler]
INTERRUPT = 1
BEFORE, STEPS = 4, 10


def interrupts(recording: Recording) -> list[int]:
    """Returns the position of each interrupt in the log."""
    data = recording.log.read_bytes()
    at, position, found = log.HEADER, 0, []
    while data[at] != log.END:
        if data[at] == log.INSTRUCTIONS:
            position += log.number(data, at + 1)
        elif data[at] == INTERRUPT:
            found.append(position)
        at += log.length_of(data, at, len(data)) or len(data)
    return found


def addresses(recording: Recording, directory: Path, begin: int) -> tuple[list[int], int]:
    """Returns the instructions that single steps from `begin` on execute, and their last position."""
    with Player(recording, directory) as player:
        player.go(begin)
        found = []
        for _ in range(STEPS):
            found.append(player.pc)
            player.resume(b"s")
            player.stop()
        return found, player.position


def last_hit(recording: Recording, directory: Path, address: int, begin: int, end: int) -> int | None:
    """Returns the last stop at a breakpoint between `begin` and `end`, by executing forwards."""
    found = None
    with Player(recording, directory) as player:
        player.go(begin)
        player.insert([b"1,%x,1" % address])
        player.hold_at(end + 1)
        for packet in (b"c", b"s") * STEPS:
            player.resume(packet)
            if player.stop().startswith(HELD) or player.position >= end:
                break
            if packet == b"c":
                found = player.position
    return found


@pytest.mark.parametrize("which", [0, 4, -1])
def test_a_breakpoint_beside_an_interrupt_stops(
    recording: Recording, client: RelayClient, short: Path, which: int
) -> None:
    position = interrupts(recording)[which]
    begin = position - BEFORE
    met, end = addresses(recording, short / "steps", begin)
    assert end < begin + STEPS, "an interrupt takes a step of its own"
    for number, address in enumerate(dict.fromkeys(met)):
        hit = last_hit(recording, short / str(number), address, begin, end)
        client.goto(end)
        client.ask(b"Z1,%x,1" % address)
        client.ask(b"bc")
        if hit is None:
            assert client.position < begin
        else:
            assert (client.position, client.registers()[-1]) == (hit, address)
        client.ask(b"z1,%x,1" % address)
