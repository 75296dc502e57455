"""The query whether a kernel is in its debugger, over lines that corrupt data, stay silent or close."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rumplab.guest import kernel_debugger

REPLY = b"$S05#b8"


class Line:
    """A serial line at a socket: `talk` serves the first client."""

    def __init__(self, path: Path, talk: Callable[[socket.socket], None]) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.talk = talk
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        client, _ = self.server.accept()
        with client:
            client.settimeout(10)
            self.talk(client)

    def close(self) -> None:
        self.thread.join(10)
        self.server.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], Path]]:
    lines: list[Line] = []

    def make(talk: Callable[[socket.socket], None]) -> Path:
        path = tmp_path / "com1.sock"
        lines.append(Line(path, talk))
        return path

    yield make
    for made in lines:
        made.close()


def until(client: socket.socket, wanted: bytes) -> bytes:
    """Return the client's data up to and including `wanted`."""
    data = b""
    while wanted not in data:
        piece = client.recv(100)
        if not piece:
            break
        data += piece
    return data


def test_a_kernel_that_answers_is_acknowledged(line: Callable[..., Path]) -> None:
    heard: list[bytes] = []

    def talk(client: socket.socket) -> None:
        heard.append(until(client, b"#3f"))
        client.sendall(b"+" + REPLY)
        heard.append(until(client, b"+"))

    assert kernel_debugger.ask(line(talk), 5)
    assert heard == [b"+$?#3f", b"+"]


def test_garbage_in_front_of_the_answer_is_passed_over(line: Callable[..., Path]) -> None:
    def talk(client: socket.socket) -> None:
        until(client, b"#3f")
        client.sendall(b"\xff\x00login: $half#" + b"+" + REPLY)
        until(client, b"+")

    assert kernel_debugger.ask(line(talk), 5)


def test_a_damaged_answer_is_asked_for_again(line: Callable[..., Path]) -> None:
    asked: list[bytes] = []

    def talk(client: socket.socket) -> None:
        until(client, b"#3f")
        client.sendall(b"+$S0\x05#b8")
        asked.append(until(client, b"-"))
        client.sendall(REPLY)
        until(client, b"+")

    assert kernel_debugger.ask(line(talk), 5)
    assert asked == [b"-"]


def test_answers_to_earlier_questions_are_taken_too(line: Callable[..., Path]) -> None:
    acknowledged: list[bytes] = []

    def talk(client: socket.socket) -> None:
        until(client, b"#3f")
        client.sendall(REPLY)
        time.sleep(0.05)
        client.sendall(b"+" + REPLY)
        acknowledged.append(until(client, b"nothing more"))

    assert kernel_debugger.ask(line(talk), 5)
    for _ in range(100):
        if acknowledged:
            break
        time.sleep(0.05)
    assert acknowledged == [b"++"]


def test_a_question_that_was_lost_is_asked_again(line: Callable[..., Path]) -> None:
    def talk(client: socket.socket) -> None:
        until(client, b"#3f")
        until(client, b"#3f")
        client.sendall(REPLY)
        until(client, b"+")

    assert kernel_debugger.ask(line(talk), 5)


def test_a_kernel_that_is_silent_runs(line: Callable[..., Path]) -> None:
    began = time.monotonic()
    assert not kernel_debugger.ask(line(lambda client: until(client, b"never")), 0.5)
    assert 0.4 < time.monotonic() - began < 3


@pytest.mark.parametrize("part", [b"", b"+$S0"])
def test_a_guest_that_dies_in_the_middle_of_a_packet_is_no_answer(line: Callable[..., Path], part: bytes) -> None:
    def talk(client: socket.socket) -> None:
        until(client, b"#3f")
        client.sendall(part)

    assert not kernel_debugger.ask(line(talk), 5)


def test_no_line_is_no_answer(tmp_path: Path) -> None:
    assert not kernel_debugger.ask(tmp_path / "com1.sock", 1)
