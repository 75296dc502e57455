"""A real GDB with `rumplab ipkdb`, over real sockets to a simulated kernel; and how sessions end."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ipkdb.kernel import DATA, FILLING, KEY, LOOP_INCREMENT, TEXT
from ipkdb.network import IDEAL, Impairment
from ipkdb.server import Server
from support.labfixture import LabPrefix
from support.running import until

from rumplab.gdb import command_line
from rumplab.host import holders, ports

SECONDS = 60


def framed(text: str) -> bytes:
    """Return a packet as GDB sends it."""
    return f"${text}#{sum(text.encode()) % 256:02x}".encode()


def gdb(remote: str, *commands: str, lab: LabPrefix) -> str:
    """Return GDB's output."""
    return lab.gdb("set architecture i386", f"target remote {remote}", *commands)


@contextmanager
def session(
    lab: LabPrefix, server: Server, key_file: Path, *options: str | Path
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `rumplab ipkdb connect`; yield its process and the TCP port where it waits for GDB."""
    port = () if "--port" in options else ("--port", str(ports.free()))
    target = ("--target", f"127.0.0.1:{server.port}", "--key-file", key_file)
    process = lab.start("ipkdb", "connect", *target, *port, *options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "target remote 127.0.0.1:" in line, process.communicate(timeout=SECONDS)
        yield process, int(line.rpartition(":")[2])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=SECONDS)


@pytest.mark.parametrize("relayed", [False, True])
def test_gdb_comes_by_a_socket_of_the_users_own(empty_lab: LabPrefix, key_file: Path, relayed: bool) -> None:
    with Server(IDEAL) as server:
        process = empty_lab.start("ipkdb", "connect", "--target", f"127.0.0.1:{server.port}", "--key-file", key_file)
        assert process.stdout is not None
        line = process.stdout.readline()
        path = Path(line.partition("target remote ")[2].split(" ")[0])
        assert path.is_socket()
        assert path.parent.stat().st_mode & 0o777 == 0o700
        relay = f"| {shlex.join([*empty_lab.argv('relay'), str(path)])}"
        assert "$1 = " in gdb(relay if relayed else str(path), "print $eax", lab=empty_lab)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
        assert not path.parent.exists()


WALK = (
    f"break *{LOOP_INCREMENT:#x}",
    "continue",
    "stepi",
    "stepi",
    "print $eax",
    "continue",
    "print $eax",
    f"x/4xb {TEXT:#x}",
    f"set var *(int *){DATA:#x} = 0x12345678",
    f"print/x *(int *){DATA:#x}",
    "set var $ebx = 77",
    "print $ebx",
    "print $st0",
    "detach",
)


def check_walk(output: str, server: Server) -> None:
    for expected in ("$1 = 1", "$2 = 2", "0x90\t0x90\t0x40\t0x41", "$3 = 0x12345678", "$4 = 77", "$5 = <unavailable>"):
        assert expected in output, output
    assert "detached" in output
    assert server.kernel.detached
    assert server.kernel.cpu.byte(LOOP_INCREMENT) == 0x40
    assert server.kernel.cpu.registers["ebx"] == 77


@pytest.mark.parametrize("impairment", [IDEAL, Impairment(0.1, 0.1, delay=0.0, spread=0.003)], ids=["ideal", "rough"])
def test_gdb_by_tcp(impairment: Impairment, empty_lab: LabPrefix, key_file: Path) -> None:
    with Server(impairment) as server, session(empty_lab, server, key_file) as (process, port):
        output = gdb(f"127.0.0.1:{port}", *WALK, lab=empty_lab)
        check_walk(output, server)
        assert process.wait(SECONDS) == 0


def test_gdb_by_pipe(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server:
        words = ["ipkdb", "connect", "--target", f"127.0.0.1:{server.port}", "--key-file", str(key_file), "--stdio"]
        output = gdb("| " + " ".join(empty_lab.argv(*words)), *WALK, lab=empty_lab)
        check_walk(output, server)
        assert "Traceback" not in output


def test_a_breakpoint_that_cannot_be_set_leaves_the_kernel_where_it_is(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server:
        words = ["ipkdb", "connect", "--target", f"127.0.0.1:{server.port}", "--key-file", str(key_file), "--stdio"]
        translator = "| " + " ".join(empty_lab.argv(*words))
        steps = command_line.run_to("no_such_function", "break")
        said = empty_lab.gdb(f"target remote {translator}", *steps, "print 123456 * 8")
        assert "No symbol table is loaded" in said
        # The result is longer than a port number, since the translator prints one.
        assert "987648" not in said
        until(lambda: holders.of_peer("127.0.0.1", server.port) is None)
        assert not server.kernel.running and not server.kernel.detached
        # Another session continues there.
        assert "0x" in empty_lab.gdb(f"target remote {translator}", "print $pc", "detach")
        assert server.kernel.detached


def test_plain_pipes_work(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server:
        words = ["ipkdb", "connect", "--target", f"127.0.0.1:{server.port}", "--key-file", str(key_file), "--stdio"]
        done = subprocess.run(
            empty_lab.argv(*words), env=empty_lab.environment, input=b"$?#3f$D#44", capture_output=True, timeout=SECONDS
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"+$T05") and b"$OK#9a" in done.stdout


def test_files_for_a_pipe_are_refused_before_anything_is_sent_to_the_kernel(
    empty_lab: LabPrefix, key_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(b"$?#3f")
    with Server() as server, (tmp_path / "in").open() as source:
        words = ["ipkdb", "connect", "--target", f"127.0.0.1:{server.port}", "--key-file", str(key_file), "--stdio"]
        done = subprocess.run(
            empty_lab.argv(*words), env=empty_lab.environment, stdin=source, capture_output=True, timeout=SECONDS
        )
        assert done.returncode == 1 and b"target remote |" in done.stderr
        assert not server.kernel.done


def test_64_kib_at_a_tenth_lost(empty_lab: LabPrefix, key_file: Path, tmp_path: Path) -> None:
    with Server(Impairment(lose=0.1, delay=0.0)) as server, session(empty_lab, server, key_file) as (_, port):
        dump = tmp_path / "memory"
        output = gdb(f"127.0.0.1:{port}", f"dump binary memory {dump} {DATA} {DATA + 65536}", "detach", lab=empty_lab)
        assert dump.read_bytes() == b"".join(FILLING), output


def test_gdb_that_leaves_makes_room_for_the_next(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server, session(empty_lab, server, key_file) as (process, port):
        with socket.create_connection(("127.0.0.1", port), SECONDS) as first:
            first.sendall(framed("P0=2a000000"))
            assert first.recv(1) == b"+"
            with socket.create_connection(("127.0.0.1", port), SECONDS) as second:
                assert second.recv(16) == b"", "the second GDB is refused"
        deadline = time.monotonic() + SECONDS
        while "$1 = 42" not in (output := gdb(f"127.0.0.1:{port}", "print $eax", "detach", lab=empty_lab)):
            assert time.monotonic() < deadline, output
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0
        assert "a second GDB was refused" in errors


def test_the_error_for_an_interrupt_says_that_a_running_kernel_cannot_be_stopped(
    empty_lab: LabPrefix, key_file: Path
) -> None:
    with (
        Server() as server,
        session(empty_lab, server, key_file) as (_, port),
        socket.create_connection(("127.0.0.1", port), SECONDS) as client,
    ):
        stream = client.makefile("rb")
        client.sendall(framed("c"))
        assert stream.read(1) == b"+"
        time.sleep(0.3)
        client.sendall(b"\x03")
        text = b""
        while not text.endswith(b"#"):
            text += stream.read(1)
        assert b"can't interrupt" in bytes.fromhex(text[2:-1].decode())
        stream.read(2)
        server.call(server.kernel.cpu.store, LOOP_INCREMENT, 0xCC)
        assert stream.read(4) == b"$T05"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_detaches_cleanly(number: int, empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server, session(empty_lab, server, key_file) as (process, port):
        with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
            client.sendall(framed(f"Z0,{TEXT:x},1"))
            received = b""
            while b"OK" not in received:
                received += client.recv(64)
            assert server.kernel.cpu.byte(TEXT) == 0xCC
            process.send_signal(number)
            _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0 and "detached" in errors
        assert server.kernel.detached and server.kernel.cpu.byte(TEXT) == 0x90


def test_ctrl_c_while_the_kernel_runs_warns_of_remaining_breakpoints(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server, session(empty_lab, server, key_file) as (process, port):
        with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
            client.sendall(framed(f"Z0,{DATA:x},1") + framed("c"))
            deadline = time.monotonic() + SECONDS
            while not server.kernel.running and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert "can't detach from a running one" in errors and f"{DATA:#x} (was 00)" in errors


def test_target_that_restarts_ends_the_session(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server, session(empty_lab, server, key_file) as (process, port):
        server.call(server.kernel.boot)
        output = gdb(f"127.0.0.1:{port}", f"x/x {DATA:#x}", lab=empty_lab)
        assert "closed" in output
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 1 and "restarted" in errors


def test_silent_target(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server(key=b"quite another key, no?") as server:
        started = time.monotonic()
        target = ("--target", f"127.0.0.1:{server.port}", "--key-file", key_file)
        done = empty_lab.tool("ipkdb", "connect", *target, "--timeout", "2")
    assert done.returncode == 1 and time.monotonic() - started < 20
    assert "the key may be wrong" in done.stderr and "DDB" in done.stderr


def test_no_target_answers(empty_lab: LabPrefix, key_file: Path) -> None:
    port = ports.free()
    done = empty_lab.tool("ipkdb", "connect", "--target", f"127.0.0.1:{port}", "--key-file", key_file, "--timeout", "2")
    assert done.returncode == 1 and "nobody listens there" in done.stderr


def test_second_debugger_on_this_host_is_refused(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server, session(empty_lab, server, key_file) as (process, _):
        done = empty_lab.tool("ipkdb", "connect", "--target", f"127.0.0.1:{server.port}", "--key-file", key_file)
        assert done.returncode == 1
        assert "debugged already" in done.stderr and f"pid {process.pid}" in done.stderr


def test_taken_port_is_named(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server, socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = empty_lab.tool(
            "ipkdb", "connect", "--target", f"127.0.0.1:{server.port}", "--key-file", key_file, "--port", str(port)
        )
        assert done.returncode == 1
        assert f"port {port} on 127.0.0.1" in done.stderr and f"pid {os.getpid()}" in done.stderr
        assert not server.kernel.done, "the error comes before anything is sent to the kernel"


def test_wrong_architecture_is_reported_before_gdb_connects(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server:
        done = empty_lab.tool(
            "ipkdb", "connect", "--target", f"127.0.0.1:{server.port}", "--key-file", key_file, "--arch", "powerpc"
        )
    assert done.returncode == 1 and "64 bytes of registers" in done.stderr and "--arch" in done.stderr


def test_trace_shows_both_sides(empty_lab: LabPrefix, key_file: Path) -> None:
    with Server() as server, session(empty_lab, server, key_file, "--trace") as (process, port):
        gdb(f"127.0.0.1:{port}", "detach", lab=empty_lab)
        _, errors = process.communicate(timeout=SECONDS)
    lines = errors.splitlines()
    assert any("> qSupported" in line.partition("|")[0] for line in lines)
    assert any("< 1 p 64 bytes" in line.partition("|")[2] for line in lines)
    assert KEY.decode() not in errors
