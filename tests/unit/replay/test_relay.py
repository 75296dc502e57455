"""The relay between a debugger and a recording, with QEMU: reverse execution matches forward execution."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.relayclient import RelayClient
from support.running import until
from support.staging import needs_compiler, needs_qemu
from unit.replay.conftest import Truth

from rumplab.recording.record import Recording
from rumplab.replay import relay
from rumplab.replay.faults import Ended
from rumplab.replay.player import Player

pytestmark = [needs_qemu, needs_compiler]
# The number of instructions that the test looks at.
WRITES = 5
STEP, CONTINUE, BACK_STEP, BACK = b"vCont;s:1", b"vCont;c", b"bs", b"bc"
COMMANDS = st.sampled_from([STEP, CONTINUE, BACK_STEP, BACK_STEP, BACK, BACK, BACK])


def writes(recording: Recording, address: int) -> list[int]:
    """Returns the positions before each write to 8 bytes at `address`, by executing forwards."""
    found: list[int] = []
    with tempfile.TemporaryDirectory(prefix="rr") as path, Player(recording, Path(path) / "0") as player:
        player.insert([b"2,%x,8" % address])
        while True:
            player.resume(b"c")
            try:
                player.stop()
            except Ended:
                return found
            found.append(player.position - 1)


def expected(truth: Truth, command: bytes, position: int, points: set[int], written: Collection[int]) -> int:
    """Returns the position after `command`, with breakpoints at `points` and a watchpoint whose bytes are `written` at
    these positions; -1 for a position before the single steps."""
    if command == BACK_STEP:
        return position - 1
    if command == STEP:
        return min(position + 1, truth.last)
    if command == CONTINUE:
        # A debugger steps over a breakpoint; QEMU doesn't.
        places = [truth.after(points, position), *(place + 1 for place in written if place >= position)]
        return min((place for place in places if place is not None), default=truth.last)
    places = [truth.before(points, position), *(place for place in written if place < position)]
    return max((place for place in places if place is not None and place >= truth.first), default=-1)


@pytest.fixture(scope="session")
def watched(truth: Truth, recording: Recording) -> tuple[int, list[int]]:
    """An address on the stack, and the positions of the writes to it."""
    address = truth.registers[len(truth.registers) // 2][7] & ~7
    return address, writes(recording, address)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(snapshots=st.booleans(), data=st.data())
def test_random_commands_end_where_single_steps_say(
    truth: Truth,
    recording: Recording,
    indexed: Recording,
    watched: tuple[int, list[int]],
    snapshots: bool,
    data: st.DataObject,
) -> None:
    places = st.integers(truth.first, truth.last)
    points = {truth.pc(place) for place in data.draw(st.lists(places, max_size=3))}
    address, written = watched if data.draw(st.booleans()) else (None, [])
    used = indexed if snapshots else recording
    with RelayClient(relay.argv(used)) as client:
        position = data.draw(places)
        client.goto(position)
        for point in points:
            assert client.ask(b"Z1,%x,1" % point) == b"OK"
        if address is not None:
            assert client.ask(b"Z2,%x,8" % address) == b"OK"
        for command in data.draw(st.lists(COMMANDS, min_size=1, max_size=5)):
            place = expected(truth, command, position, points, written)
            report = client.ask(command)
            if command == BACK:
                assert (b"replaylog:begin" in report) == (client.position == 0)
                assert (b"watch:" in report) == (client.position in written)
            if place < truth.first:
                assert client.position < truth.first
                break
            assert client.position == place, (command, position)
            assert client.registers() == truth.registers[place - truth.first]
            position = place


def test_a_step_that_a_watchpoint_ends_stops_once(
    truth: Truth, client: RelayClient, watched: tuple[int, list[int]]
) -> None:
    """QEMU reports such a stop twice: when a step or `continue` follows, and when a search steps over a breakpoint."""
    address, written = watched
    first, second = [place for place in written if truth.first < place < truth.last - 5][-2:]
    client.goto(first)
    assert client.ask(b"Z2,%x,8" % address) == b"OK"
    for command, position in ((STEP, first + 1), (STEP, first + 2), (CONTINUE, second + 1)):
        client.ask(command)
        assert client.position == position
    client.goto(first)
    for command, position in ((STEP, first + 1), (CONTINUE, second + 1)):
        client.ask(command)
        assert client.position == position
    client.goto(second + 5)
    assert client.ask(b"Z1,%x,1" % truth.pc(second)) == b"OK"
    client.ask(BACK)
    assert client.position == second


def test_a_watchpoint_finds_all_writes_backwards(client: RelayClient, watched: tuple[int, list[int]]) -> None:
    """Goes backwards through the writes to the stack, and compares the bytes before and after each."""
    stack, places = watched
    assert len(places) > 1
    client.goto("end")
    client.ask(b"Z2,%x,8" % stack)
    changes = 0
    for place in places[: -WRITES - 1 : -1]:
        report = client.ask(BACK)
        assert client.position == place
        assert b"watch:" in report
        before = client.ask(b"m%x,8" % stack)
        assert b"watch:" in client.ask(STEP)
        assert client.position == place + 1
        # Some writes don't change the bytes.
        changes += client.ask(b"m%x,8" % stack) != before
        client.ask(BACK_STEP)
    assert changes
    client.goto(places[0])
    assert b"replaylog:begin" in client.ask(BACK)
    assert client.position == 0


def test_the_beginning_and_the_end_are_reported(truth: Truth, client: RelayClient) -> None:
    assert b"replaylog:begin" in client.ask(BACK_STEP)
    assert b"replaylog:begin" in client.ask(BACK)
    assert b"replaylog:end" in client.ask(CONTINUE)
    assert client.position == truth.last
    # GDB may be stepping over a breakpoint.
    for command, answer in ((STEP, b"T02"), (CONTINUE, b"T05replaylog:end"), (STEP, b"T02")):
        assert client.ask(command).startswith(answer)
        assert client.position == truth.last
    assert "the recording ends here" in client.said
    client.ask(BACK_STEP)
    assert client.ask(STEP) == b"T05thread:01;"
    assert client.position == truth.last
    client.goto("begin")
    assert client.position == 0


def test_nothing_can_be_changed(truth: Truth, client: RelayClient) -> None:
    client.goto(truth.first + 10)
    before = client.registers()
    for packet in (b"P0=0100000000000000", b"G" + b"00" * 8, b"M100000,1:00", b"X100000,1:\x01"):
        assert client.ask(packet) in (b"E01", b"")
    client.ask(b"qRcmd," + b"system_reset".hex().encode())
    assert "might change the run" in client.said
    assert "IP=" in (client.ask(b"qRcmd," + b"info registers".hex().encode()) and client.said)
    assert client.registers() == before


def test_marks_are_remembered(truth: Truth, client: RelayClient) -> None:
    client.goto(truth.first + 100)
    assert client.order("rr mark here") == f"here: instruction {truth.first + 100}\n"
    client.goto(5)
    assert client.order("rr marks") == f"here: instruction {truth.first + 100}\n"
    client.goto("here")
    assert client.registers() == truth.registers[100]
    for wrong in ("rr goto nosuch", "rr goto 99999999999", "rr mark 1", "rr mark end", "rr", "rr fly"):
        assert client.ask(b"qRcmd," + wrong.encode().hex().encode()) == b"E01"


def test_a_qemu_that_is_killed_is_replaced(
    truth: Truth, client: RelayClient, children: Callable[[RelayClient], list[int]]
) -> None:
    client.goto(truth.first + 7)
    for command, place in ((b"g", 7), (BACK_STEP, 6), (STEP, 7)):
        (pid,) = children(client)
        os.kill(pid, signal.SIGKILL)
        client.ask(command)
        assert client.position == truth.first + place
        assert client.registers() == truth.registers[place]


def test_a_qemu_that_does_not_answer_is_replaced(
    truth: Truth, client: RelayClient, children: Callable[[RelayClient], list[int]]
) -> None:
    client.goto(truth.first + 7)
    (pid,) = children(client)
    os.kill(pid, signal.SIGSTOP)
    assert client.registers() == truth.registers[7]
    assert client.position == truth.first + 7
    assert pid not in children(client)


def test_ctrl_c_while_a_qemu_is_replaced_is_ignored(
    truth: Truth, client: RelayClient, children: Callable[[RelayClient], list[int]]
) -> None:
    client.goto(truth.first + 7)
    (pid,) = children(client)
    os.kill(pid, signal.SIGKILL)
    client.send(b"g")
    time.sleep(0.05)
    client.interrupt()
    assert len(client.receive()) > 100
    assert client.registers() == truth.registers[7]


def test_a_killed_debugger_leaves_no_process(
    truth: Truth, client: RelayClient, children: Callable[[RelayClient], list[int]], short: Path
) -> None:
    client.goto("end")
    client.ask(b"Z1,%x,1" % truth.pc(truth.first))
    client.send(BACK)
    until(lambda: len(children(client)) > 1)
    pids = children(client)
    client.socket.close()
    client.process.wait(10)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not list(short.iterdir())


def test_the_qemu_of_a_killed_relay_ends(client: RelayClient, children: Callable[[RelayClient], list[int]]) -> None:
    client.goto(1000)
    (pid,) = children(client)
    client.process.kill()
    client.process.wait(10)
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_ctrl_c_ends_a_search_and_keeps_the_position(
    truth: Truth, client: RelayClient, children: Callable[[RelayClient], list[int]]
) -> None:
    place = truth.last - 5
    client.goto(place)
    client.ask(b"Z1,%x,1" % truth.pc(truth.first))
    client.send(BACK)
    until(lambda: len(children(client)) > 1)
    began = time.monotonic()
    client.interrupt()
    report = client.receive()
    assert report.startswith(b"T02")
    assert time.monotonic() - began < 5
    assert client.position == place
    assert client.registers() == truth.registers[place - truth.first]
    assert len(children(client)) == 1


def test_ctrl_c_stops_forward_execution(truth: Truth, client: RelayClient) -> None:
    client.send(CONTINUE)
    time.sleep(0.02)
    client.interrupt()
    report = client.receive()
    assert report.startswith((b"T02", b"T05replaylog:end"))
    assert 0 <= client.position <= truth.last
    place = client.position
    if place > 0:
        client.ask(BACK_STEP)
        assert client.position == place - 1


def test_two_debuggers_share_a_recording(truth: Truth, client: RelayClient, recording: Recording) -> None:
    with RelayClient(relay.argv(recording)) as other:
        client.goto(truth.first + 1)
        other.goto(truth.first + 9)
        client.ask(BACK_STEP)
        assert (client.position, other.position) == (truth.first, truth.first + 8 + 1)
