"""The tests' own server for GDB's remote serial protocol, alone and with a stock GDB."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator

import pytest
from rsp import i386
from rsp.drive import drive
from rsp.server import Machine, Server, Stop, checksum, packet

STOPS = [Stop("aabb"), Stop("ccdd", {0x10: "0102"})]


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with (
        Server(Machine(STOPS), timeout=5) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as client,
    ):
        yield client


def ask(client: socket.socket, raw: bytes, length: int) -> bytes:
    client.sendall(raw)
    received = b""
    while len(received) < length:
        piece = client.recv(length - len(received))
        if not piece:
            break
        received += piece
    return received


def test_checksum_wraps_at_256() -> None:
    assert checksum(b"g") == b"67"
    assert checksum(b"\xff\xff") == b"fe"
    assert packet("OK") == b"$OK#9a"


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        ("?", "S05"),
        ("g", "aabb"),
        ("p10", ""),
        ("m1000,3", "000000"),
        ("Hg0", "OK"),
        ("D", "OK"),
        ("qAttached", "1"),
        ("vCont?", ""),
    ],
)
def test_answers_at_the_first_stop(request_: str, reply: str) -> None:
    machine = Machine(STOPS)
    assert machine.answer(request_) == reply
    assert machine.log == [request_]


def test_resuming_goes_on_to_the_next_stop_and_stays_at_the_last() -> None:
    machine = Machine(STOPS)
    answers = [machine.answer(request) for request in ("c", "g", "p10", "s", "g")]
    assert answers == ["S05", "ccdd", "0102", "S05", "ccdd"]


def test_a_machine_without_stops_is_refused() -> None:
    with pytest.raises(ValueError, match="one stop"):
        Machine([])


def test_a_good_packet_is_acknowledged_and_answered(connection: socket.socket) -> None:
    assert ask(connection, packet("g"), 9) == b"+" + packet("aabb")


def test_a_bad_checksum_is_refused(connection: socket.socket) -> None:
    assert ask(connection, b"$g#00", 1) == b"-"
    assert ask(connection, packet("g"), 9) == b"+" + packet("aabb")


def test_a_reply_is_sent_again_when_asked_for(connection: socket.socket) -> None:
    ask(connection, packet("g"), 9)
    assert ask(connection, b"-", 8) == packet("aabb")


def test_kill_ends_the_connection(connection: socket.socket) -> None:
    assert ask(connection, packet("k"), 1) == b""


def test_i386_reply_has_the_size_and_the_values() -> None:
    whole = bytes.fromhex(i386.reply(608, {"eax": 1, "eip": 0x12345678, "mxcsr": 0x1F80}))
    assert len(whole) == 608
    assert (whole[0], whole[32:36], whole[304:308]) == (1, b"\x78\x56\x34\x12", b"\x80\x1f\x00\x00")
    assert bytes.fromhex(i386.reply(34, {"eip": 0x12345678}))[32:] == b"\x78\x56"


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")
@pytest.mark.parametrize(
    ("size", "said"), [(i386.FULL, "$1 = 0x1234"), (608, "Remote 'g' packet reply is too long")], ids=str
)
def test_a_stock_gdb_takes_the_size_it_expects_and_no_other(size: int, said: str) -> None:
    session = {"stops": [{"g": i386.reply(size, {"eip": 0x1234}), "p": {}}], "commands": ["p/x $eip"]}
    answer = drive("gdb", session, 30)
    assert said in answer["output"]
    assert "g" in answer["packets"]
