"""Attacks by other users of the host and by guests on running machines; docs/development/security.md lists all."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ipkdb.network import IDEAL
from ipkdb.server import Server
from support.labfixture import LabPrefix, host_tool
from support.running import detach, started, until

from rumplab.host import ports
from rumplab.lab import config, places
from rumplab.machine.registry import open_machines

NOBODY = 65534
SECONDS = 20
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
CONNECT = """
import socket, sys
try:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(sys.argv[1])
except OSError as error:
    sys.exit(type(error).__name__)
"""
# The guest's addresses on its network.
GUEST_MAC, GUEST_ADDRESS = bytes.fromhex("545400555555"), "192.168.76.9"
ETHERNET_IPV4, ETHERNET_ARP, TCP, SYN, ACK = 0x0800, 0x0806, 6, 0x02, 0x10


def connect_as_nobody(path: Path) -> str:
    """Connect to the socket as user nobody; return the error's class name, or ""."""
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", CONNECT, str(path)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.stderr.strip()


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@as_root
def test_another_user_reaches_neither_the_stub_nor_the_control_socket(
    lab: LabPrefix, pcihello: Path, open_umask: None
) -> None:
    lab.runtime.chmod(0o755)
    directory = Path(started(lab, pcihello, "--wait")["directory"])
    for opened in (False, True):
        if opened:
            # The sockets' own mode keeps others out even if the directories are open.
            for path in (directory, *list(directory.parents)[:2]):
                path.chmod(0o755)
        for name in ("gdb.sock", "qmp.sock"):
            assert connect_as_nobody(directory / name) == "PermissionError"
    # With another mode it works, so the mode was the reason.
    (directory / "qmp.sock").chmod(0o666)
    assert connect_as_nobody(directory / "qmp.sock") == ""


@as_root
def test_another_user_does_not_reach_the_bridge_to_ipkdb(
    empty_lab: LabPrefix, key_file: Path, open_umask: None
) -> None:
    with Server(IDEAL) as server:
        bridge = empty_lab.start("ipkdb", "--target", f"127.0.0.1:{server.port}", "--key-file", key_file)
        assert bridge.stdout is not None
        path = Path(bridge.stdout.readline().partition("target remote ")[2].split(" ")[0])
        try:
            assert path.is_socket()
            assert connect_as_nobody(path) == "PermissionError"
            path.parent.chmod(0o755)
            assert connect_as_nobody(path) == "PermissionError"
        finally:
            bridge.terminate()
            bridge.communicate(timeout=SECONDS)


@as_root
def test_a_place_that_another_user_made_first_blocks_nobody(
    empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a directory like /tmp, which the tool uses for a user without a home."""
    shared = Path(tempfile.mkdtemp(prefix="rs"))
    shared.chmod(0o1777)
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(shared))
        monkeypatch.setenv("XDG_STATE_HOME", str(shared))
        squatted = shared / f"rumplab-{places.lab_id(config.load())}"
        subprocess.run(["mkdir", squatted], user=NOBODY, group=NOBODY, extra_groups=[], check=True)
        assert open_machines(config.load()).root.is_relative_to(empty_lab.runtime)
        assert f"{squatted} is not a directory of your own" in capsys.readouterr().err
    finally:
        subprocess.run(["rm", "-rf", shared], check=True)


@as_root
def test_a_debugger_who_came_by_a_port_runs_no_program_as_the_machines_user(
    lab: LabPrefix, pcihello: Path, tmp_path: Path
) -> None:
    """Another user sends the packets of the remote protocol."""
    port, written = ports.free(), tmp_path / "written"
    assert detach(lab, pcihello, "--wait", "--gdb-port", str(port)).returncode == 0
    command = f'migrate "exec:echo >{written}"'.encode().hex()
    packet = f"qRcmd,{command}"
    packet = f"${packet}#{sum(packet.encode()) % 256:02x}"
    script = "import socket, sys, time; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
    script += "s.sendall(b'+' + sys.argv[2].encode()); s.settimeout(5); print(s.recv(4096)); time.sleep(1)"
    argv = ["/usr/bin/python3", "-I", "-c", script, str(port), packet]
    done = subprocess.run(
        argv, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, timeout=SECONDS, check=False
    )
    assert b"+" in done.stdout, done.stderr
    assert not written.exists()


class Wire:
    """The guest's end of a QEMU network; `netdev` is the value of rumplab's -netdev option."""

    def __init__(self, netdev: str, directory: Path) -> None:
        self.frames, other = socket.socketpair()
        hub = ["-netdev", f"socket,id=wire,fd={other.fileno()}", "-netdev", "hubport,id=a,hubid=0,netdev=wire"]
        hub += ["-netdev", "hubport,id=b,hubid=0,netdev=net0"]
        argv = [host_tool("qemu-system-x86_64"), "-machine", "none", "-display", "none", "-nodefaults"]
        self.process = subprocess.Popen(
            [*argv, "-netdev", netdev, *hub], pass_fds=(other.fileno(),), stdin=subprocess.DEVNULL, cwd=directory
        )
        other.close()
        self.frames.settimeout(0.2)

    def send(self, frame: bytes) -> None:
        self.frames.sendall(struct.pack("!I", len(frame)) + frame)

    def received(self, seconds: float) -> Iterator[bytes]:
        """Yield the frames that arrive within `seconds`."""
        deadline, waiting = time.monotonic() + seconds, b""
        while time.monotonic() < deadline:
            with contextlib.suppress(socket.timeout):
                waiting += self.frames.recv(65536)
            while len(waiting) >= 4 and len(waiting) >= 4 + (length := int.from_bytes(waiting[:4], "big")):
                yield waiting[4 : 4 + length]
                waiting = waiting[4 + length :]

    def answers(self, address: str, port: int) -> bool:
        """Return whether `address` accepts a TCP connection to `port`; a reset doesn't count."""
        gateway, own, there = (socket.inet_aton(name) for name in ("192.168.76.2", GUEST_ADDRESS, address))
        question = struct.pack("!HHBBH", 1, ETHERNET_IPV4, 6, 4, 1) + GUEST_MAC + own + bytes(6) + gateway
        self.send(b"\xff" * 6 + GUEST_MAC + struct.pack("!H", ETHERNET_ARP) + question)
        arp = struct.pack("!H", ETHERNET_ARP)
        reply = next(frame for frame in self.received(SECONDS) if frame[12:14] == arp and frame[20:22] == b"\0\2")
        segment = struct.pack("!HHIIBBHHH", 40000, port, 1000, 0, 5 << 4, SYN, 65000, 0, 0)
        pseudo = own + there + struct.pack("!BBH", 0, TCP, len(segment))
        segment = segment[:16] + checksum(pseudo + segment) + segment[18:]
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 1, 0, 64, TCP, 0, own, there)
        header = header[:10] + checksum(header) + header[12:]
        self.send(reply[22:28] + GUEST_MAC + struct.pack("!H", ETHERNET_IPV4) + header + segment)
        return any(
            frame[12:14] == struct.pack("!H", ETHERNET_IPV4) and frame[23] == TCP and frame[47] == SYN | ACK
            for frame in self.received(1.5)
        )

    def end(self) -> None:
        self.frames.close()
        self.process.kill()
        self.process.wait(SECONDS)


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


@pytest.mark.parametrize("address", ["192.168.76.2", "127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("option", ["", "--host-loopback"])
def test_a_guest_reaches_what_listens_on_the_host_only_where_that_is_asked_for(
    lab: LabPrefix, pcihello: Path, tmp_path: Path, address: str, option: str
) -> None:
    """Such as the debug stub of another machine. The test itself is at the guest's end of the network."""
    printed = lab.tool("run", pcihello, "--accel", "tcg", "--dry-run", *option.split())
    words = shlex.split(printed.stdout)
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        service.listen()
        service.settimeout(0.2)
        accepted = threading.Event()

        def serve() -> None:
            for _ in range(20):
                with contextlib.suppress(OSError):
                    service.accept()
                    accepted.set()

        wire = Wire(words[words.index("-netdev") + 1], tmp_path)
        try:
            listener = threading.Thread(target=serve)
            listener.start()
            answered = wire.answers(address, service.getsockname()[1])
            listener.join(SECONDS)
        finally:
            wire.end()
    assert (answered, accepted.is_set()) == (bool(option), bool(option))


def test_a_guest_that_makes_a_qcow2_disk_of_its_raw_one_gets_no_file_of_the_hosts(
    lab: LabPrefix, pcihello: Path, tmp_path: Path
) -> None:
    """QEMU doesn't open the file that the qcow2 header names."""
    disk, secret = tmp_path / "data.img", tmp_path / "secret"
    for path in (disk, secret):
        path.write_bytes(bytes(1 << 20))
    machine = started(lab, pcihello, "--drive", disk, "--wait")
    assert lab.tool("stop", machine["name"]).returncode == 0
    evil, tool = tmp_path / "evil", host_tool("qemu-img")
    subprocess.run([tool, "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", evil, "1M"], check=True)
    with disk.open("r+b") as stream:
        stream.write(evil.read_bytes())
    machine = started(lab, pcihello, "--drive", disk, "--wait")
    opened = {os.readlink(path) for path in Path(f"/proc/{machine['pid']}/fd").iterdir()}
    assert str(disk) in opened
    assert str(secret) not in opened


def test_whoever_is_killed_leaves_a_machine_that_can_be_ended(lab: LabPrefix, pcihello: Path) -> None:
    """Kill the whole command at some moments of its start; test_launch_gate.py does it much more often."""
    for moment in (0.1, 0.25, 0.4, 0.6):
        launcher = subprocess.Popen(
            [sys.executable, "-m", "rumplab", "run", str(pcihello), "--wait", "--detach", "--accel", "tcg"],
            env=lab.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moment)
        launcher.kill()
        launcher.wait(SECONDS)
        time.sleep(0.1)
        known = {machine["pid"] for machine in lab.machines()}
        assert emulators(lab) <= known
        assert lab.tool("stop", "--all").returncode == 0
        until(lambda: not emulators(lab))


def emulators(lab: LabPrefix) -> set[int]:
    """Return the pids of the QEMUs with a socket in this lab's directory."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else [b""]
            if b"qemu-system" in words[0] and any(os.fsencode(lab.runtime) in word for word in words):
                found.add(int(entry.name))
    return found
