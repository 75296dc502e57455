"""The process that has a port or a file; the test starts its own processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rumplab.host import holders, ports

pytestmark = pytest.mark.skipif(not Path("/proc/net").exists(), reason="only Linux names the holders")
HOLD = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
sock = socket.socket(type=kind)
sock.bind(("127.0.0.1", 0))
kind == socket.SOCK_STREAM and sock.listen()
file = open(sys.argv[2])
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""
CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sys.stdin.read()
"""


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_process_is_named(protocol: str, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    path.touch()
    assert holders.of_file(str(path)) is None
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, protocol, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    port = int(child.stdout.readline())
    name = Path(f"/proc/{child.pid}/comm").read_text(encoding="utf-8").strip()
    try:
        assert holders.of_port(protocol, port) == f"{name}, pid {child.pid}"
        assert holders.of_file(str(path)) == f"{name}, pid {child.pid}"
        refusal = ports.refusal(port, protocol)
        assert refusal == f"is taken by a process that is none of your machines ({name}, pid {child.pid})"
        other = "udp" if protocol == "tcp" else "tcp"
        assert ports.refusal(port, other) is None
    finally:
        child.communicate(timeout=20)
    assert holders.of_port(protocol, port) is None
    assert holders.of_file(str(path)) is None


def test_the_client_of_a_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x, y.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert holders.of_client(str(path)) is None
        child = subprocess.Popen([sys.executable, "-c", CONNECT, str(path)], stdin=subprocess.PIPE)
        try:
            with server.accept()[0]:
                assert holders.of_client(str(path)) == f"{holders.command(child.pid)}, pid {child.pid}"
                assert holders.of_client(str(tmp_path / "other")) is None
        finally:
            child.communicate(timeout=20)
        assert holders.of_client(str(path)) is None


def test_no_client_is_named_where_the_kernel_refuses_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(socket.socket, "send", refused)
    assert holders.of_client("/x.sock") is None


def test_a_file_that_does_not_exist_has_no_holder(tmp_path: Path) -> None:
    assert holders.of_file(str(tmp_path / "none")) is None
    assert holders.of_port("tcp", ports.free()) is None


def test_without_proc_nobody_is_found(tmp_path: Path) -> None:
    assert holders.of_file(str(tmp_path), tmp_path / "proc") is None
    assert holders.of_port("tcp", 1, tmp_path / "proc") is None


def test_processes_that_end_meanwhile_are_passed_over(tmp_path: Path) -> None:
    """In this /proc, one process has ended, and a file of another one is gone."""
    (tmp_path / "11" / "fd").mkdir(parents=True)
    (tmp_path / "11" / "fd" / "0").symlink_to(tmp_path / "gone")
    (tmp_path / "12").mkdir()
    (tmp_path / "13" / "fd").mkdir(parents=True)
    (tmp_path / "13" / "comm").write_text("qemu\n", encoding="utf-8")
    held = tmp_path / "x.img"
    held.touch()
    (tmp_path / "13" / "fd" / "7").symlink_to(held)
    assert holders.of_file(str(held), tmp_path) == "qemu, pid 13"
    assert holders.of_port("tcp", 1, tmp_path) is None


def test_a_low_port_is_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: socket.socket, _address: tuple[str, int]) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(socket.socket, "bind", refused)
    assert ports.refusal(80) == "is for root; use one above 1023"
