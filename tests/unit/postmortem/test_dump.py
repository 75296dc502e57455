"""Dumps of real machines, and GDB on them."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import pty
import re
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kgdb.guest import Guest
from support.demos import build
from support.labfixture import SOURCE, LabPrefix, host_tool
from support.running import DONE, started, until
from support.staging import EXAMPLE

from rumplab.errors import RumplabError
from rumplab.lab import config
from rumplab.machine import qmp
from rumplab.machine.registry import Machine, open_machines
from rumplab.postmortem import core, cpu, debugger, dump, elf
from rumplab.postmortem import record as records
from rumplab.postmortem.record import Record

pytestmark = pytest.mark.qemu


@pytest.fixture
def demo(lab: LabPrefix, pcihello: Path) -> dict[str, Any]:
    """The demo, which has finished its work and halts in its last loop."""
    machine = started(lab, pcihello, "--name", "demo")
    until(lambda: DONE in Path(machine["directory"], "serial.log").read_text())
    return machine


def dumped(lab: LabPrefix, path: Path, *options: str, name: str = "demo") -> Path:
    result = lab.tool("dump", name, "-o", path, *options)
    assert result.returncode == 0, result.stderr
    return path


def debugged(lab: LabPrefix, path: Path, *commands: str, options: tuple[str, ...] = ()) -> str:
    words = [word for command in commands for word in ("--ex", command)]
    result = lab.tool("debug", "--core", path, "--batch", *options, *words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def state(machine: dict[str, Any]) -> str:
    return qmp.status(Path(machine["directory"], "qmp.sock"))


def test_a_running_machine_is_dumped_and_continues(lab: LabPrefix, demo: dict[str, Any], out: Path) -> None:
    path = out / "it's a demo.core"
    said = lab.tool("dump", "demo", "-o", path)
    assert (said.returncode, said.stderr) == (0, "")
    opening = f"open it with: rumplab debug --core {shlex.quote(str(path))}\n"
    assert re.fullmatch(rf"demo \(running\): wrote {path} \([0-9.]+ MB on disk\); {re.escape(opening)}", said.stdout)
    assert state(demo) == "running"
    assert path.stat().st_mode & 0o777 == 0o600
    # 128 MiB, mostly zeros.
    assert path.stat().st_size > 128 << 20 and path.stat().st_blocks * 512 < 16 << 20
    assert list(out.iterdir()) == [path]
    shown = debugged(lab, path, "bt", "print/x *(int *) ($physical + 0x100000)", "print/x $cr0")
    assert re.search(r"#0 .*halt \(\) at .*platform\.h:\d+\n#1 .* in main \(", shown)
    # The Multiboot magic; paging and protection in CR0.
    assert "$1 = 0x1badb002" in shown
    assert "$2 = 0x80000011" in shown


def test_a_machine_that_waits_for_a_debugger_is_dumped_and_waits_on(lab: LabPrefix, pcihello: Path, out: Path) -> None:
    machine = started(lab, pcihello, "--name", "demo", "--wait")
    path = dumped(lab, out / "demo.core")
    assert state(machine) == "prelaunch"
    # The processor is in 16-bit mode, but the core is of the program's class.
    assert "rip            0xfff0" in debugged(lab, path, "info registers rip")
    assert "prelaunch" in (json.loads(lab.tool("dump", "demo", "-o", path, "--json").stdout)["state"])


def test_a_machine_with_an_attached_debugger_is_dumped(lab: LabPrefix, pcihello: Path, out: Path) -> None:
    started(lab, pcihello, "--name", "demo", "--wait")
    path = out / "held.core"
    # The debugger itself runs the dump, at its breakpoint.
    command = f"shell PYTHONPATH={SOURCE} {shlex.join(lab.argv('dump', 'demo', '-o', path))}"
    result = lab.tool("debug", "demo", "pci_device_found if bus == 1", "--batch", "--ex", command, "--ex", "bt")
    assert result.returncode == 0, result.stderr
    shown = debugged(lab, path, "bt")
    assert re.search(r"pci_device_found \(bus=(bus@entry=)?1", shown)
    assert frames(shown)[-3:] == frames(result.stdout)[-3:]


def frames(said: str) -> list[str]:
    """Returns the lines of GDB's backtrace."""
    return re.findall("^#.*", said, re.MULTILINE)


def test_a_compressed_dump_is_small_and_opens_directly(lab: LabPrefix, demo: dict[str, Any], out: Path) -> None:
    plain, packed = dumped(lab, out / "a.core"), dumped(lab, out / "b.core.gz", "--compress")
    assert packed.stat().st_size < 4 << 20
    assert "in main (" in debugged(lab, packed, "bt")
    # Two dumps of a halted machine differ in the time in their records.
    own, other = elf.parse(plain.read_bytes()), elf.parse(gzip.decompress(packed.read_bytes()))
    assert own.loads() == other.loads()
    assert all(own.data[one.offset :][: one.size] == other.data[one.offset :][: one.size] for one in own.loads()[:1])
    refused = lab.tool("debug", "--core", packed, "--dry-run")
    assert refused.returncode == 2 and "unpack it with gunzip" in refused.stderr


def test_the_note_describes_the_machine(lab: LabPrefix, demo: dict[str, Any], pcihello: Path, out: Path) -> None:
    said = json.loads(lab.tool("dump", "demo", "-o", out / "x", "--json").stdout)
    with core.opened(out / "x") as opened:
        record = opened.record
        assert record is not None and opened.cpus[0].privileged
    assert record.program == str(pcihello)
    digest = subprocess.run(["sha256sum", pcihello], capture_output=True, text=True, check=True).stdout.split()[0]
    assert record.program_sha256 == digest == said["program_sha256"]
    assert (record.name, record.accel, record.state, record.cut) == ("demo", "tcg", "running", False)
    assert abs(record.time - time.time()) < 60


@pytest.mark.parametrize("moved", ["beside the dump", "to what the lab knows"])
def test_symbols_are_found_by_their_hash(lab: LabPrefix, pcihello: Path, out: Path, moved: str) -> None:
    program = out / "here" / "program.bin"
    program.parent.mkdir()
    shutil.copy(pcihello, program)
    if moved == "beside the dump":
        # The lab knows the same program.
        lab.descriptor("pcihello").unlink()
    machine = started(lab, program, "--name", "demo")
    until(lambda: DONE in Path(machine["directory"], "serial.log").read_text())
    path = dumped(lab, out / "demo.core")
    assert lab.tool("stop", "demo").returncode == 0
    if moved == "beside the dump":
        program.rename(out / "program.bin")
    else:
        program.unlink()
    assert "in main (" in debugged(lab, path, "bt")
    # A different program with that name has other symbols.
    (out / "program.bin").write_bytes(b"\x7fELF something else")
    lab.component("pcihello", {"program": "/nowhere"})
    result = lab.tool("debug", "--core", path, "--batch", "--ex", "bt")
    assert "has changed or was removed since the dump" in result.stderr and "--symbols FILE" in result.stderr
    assert "in main (" not in result.stdout


def test_another_programs_symbols_are_refused(lab: LabPrefix, demo: dict[str, Any], pcihello: Path, out: Path) -> None:
    path = dumped(lab, out / "demo.core")
    result = lab.tool("debug", "--core", path, "--symbols", host_tool("true"), "--batch")
    assert result.returncode == 0 and "so the symbols may not match" in result.stderr
    other = build(EXAMPLE.parent / "kgdb", out / "kgdb.bin", "ARCH=amd64")
    result = lab.tool("debug", "--core", path, "--symbols", other, "--batch")
    assert result.returncode == 1
    assert re.search(rf"{other} is not the program of {path}: \d+ % of its code is in the dump", result.stderr)
    # The same code with other symbols is accepted.
    stripped = out / "stripped.bin"
    subprocess.run([host_tool("objcopy"), "--strip-debug", pcihello, stripped], check=True, timeout=30)
    assert "in main (" in debugged(lab, path, "bt", options=("--symbols", str(stripped)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; dump the machine again"),
        (b"hello\n", "is not an ELF file"),
        (b"\x7fELF\x02\x01" + bytes(10), "is cut short"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "is cut short or damaged"),
    ],
)
def test_a_file_that_is_not_a_dump_is_refused(lab: LabPrefix, out: Path, content: bytes, says: str) -> None:
    path = out / "x.core"
    path.write_bytes(content)
    result = lab.tool("debug", "--core", path, "--batch")
    assert result.returncode == 1 and says in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def test_half_a_dump_and_a_program_are_refused(lab: LabPrefix, demo: dict[str, Any], pcihello: Path, out: Path) -> None:
    path = dumped(lab, out / "demo.core")
    packed = dumped(lab, out / "demo.core.gz", "--compress")
    for whole in (path, packed):
        half = out / "half"
        half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        result = lab.tool("debug", "--core", half, "--batch")
        assert result.returncode == 1 and "is cut short" in result.stderr
    result = lab.tool("debug", "--core", pcihello, "--batch")
    assert result.returncode == 1 and "is a program, not a core" in result.stderr
    result = lab.tool("debug", "--core", out / "none", "--batch")
    assert result.returncode == 1 and "No such file" in result.stderr


def test_a_core_of_another_tool_is_opened(lab: LabPrefix, demo: dict[str, Any], pcihello: Path, out: Path) -> None:
    path = out / "qemu.core"
    socket = Path(demo["directory"], "qmp.sock")
    qmp.execute(socket, "dump-guest-memory", 30, {"paging": False, "protocol": f"file:{path}"})
    assert "in main (" in debugged(lab, path, "bt", options=("--symbols", str(pcihello)))
    result = lab.tool("debug", "--core", path, "--batch")
    assert result.returncode == 0 and "names no program" in result.stderr


def test_a_full_disk_is_reported_and_the_machine_runs_on(lab: LabPrefix, demo: dict[str, Any], out: Path) -> None:
    path = out / "demo.core"
    argv = lab.argv("dump", "demo", "-o", path)
    result = subprocess.run(
        argv,
        env=lab.environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert re.search(
        rf"cannot write {path}: .*; free some space there, or choose another place with -o\n", result.stderr
    )
    assert list(out.iterdir()) == []
    assert state(demo) == "running"
    # The failed dump left nothing that prevents the next one.
    dumped(lab, path)


def test_an_output_that_cannot_be_written_is_named(lab: LabPrefix, demo: dict[str, Any], out: Path) -> None:
    result = lab.tool("dump", "demo", "-o", out / "none" / "x.core")
    assert result.returncode == 1 and "choose another place with -o" in result.stderr
    (out / "directory").mkdir()
    result = lab.tool("dump", "demo", "-o", out / "directory")
    assert result.returncode == 1 and "choose another place with -o" in result.stderr
    assert list((out / "directory").iterdir()) == []


def test_a_machine_that_has_ended_cannot_be_dumped(lab: LabPrefix) -> None:
    result = lab.tool("dump", "demo")
    assert result.returncode == 1 and "no machine called 'demo' is running" in result.stderr


def test_a_core_is_not_a_machine(lab: LabPrefix, out: Path) -> None:
    for words in (["demo"], ["--vmware", "x"]):
        result = lab.tool("debug", *words, "--core", out / "x")
        assert result.returncode == 2, result.stderr


class OfKgdb(Machine):
    """A machine with the kernel of examples/kgdb, without a record."""

    @property
    def socket(self) -> Path:
        return Path(self.directory)


def test_the_dump_of_a_paged_kernel_has_its_virtual_addresses(
    kgdb_kernel: tuple[str, Path], kgdb_guests: Callable[..., Guest], out: Path
) -> None:
    architecture, program = kgdb_kernel
    control = out / "q"
    kgdb_guests(extra=["-qmp", f"unix:{control},server=on,wait=off"]).wait_for("kgdb waiting...")
    path = out / "kernel.core"
    done = dump.write(OfKgdb("kernel", str(control)), Record("kernel", program=str(program)), path)
    assert done.record.virtual and done.record.state == "running"
    with core.opened(path) as opened:
        assert opened.elf.machine == (elf.EM_X86_64 if architecture == "amd64" else elf.EM_386)
        # The hole that the kernel leaves in its tables, and page 0, aren't there.
        hole = elf.parse(program.read_bytes()).symbols(["memory_hole"])["memory_hole"]
        assert opened.read(hole, 1) is None and opened.read(0, 1) is None
        assert opened.read(hole - 8, 8) is not None
        assert bool(done.record.window) == (architecture == "amd64")
        commands = debugger.commands(opened, str(program), None)
    argv = [host_tool("gdb"), "-nx", "-batch"]
    for command in [*commands, "bt", "print msgbufp->msg_magic", "print *(char *) 0"]:
        argv += ["-ex", command]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert re.search(r"#\d+ .*kgdb.*\n(#.*\n)*#\d+ .* main \(", shown.stdout), shown.stdout
    assert re.search(r"\$\d+ = \d+", shown.stdout)
    assert "Cannot access memory at address 0x0" in shown.stderr


def test_the_commands_for_netbsd_work_on_a_dump(
    kgdb_kernel: tuple[str, Path], kgdb_guests: Callable[..., Guest], out: Path
) -> None:
    control, path = out / "q", out / "kernel.core"
    kgdb_guests("", ["-qmp", f"unix:{control},server=on,wait=off"]).wait_for("login: ")
    dump.write(OfKgdb("kernel", str(control)), Record("kernel", program=str(kgdb_kernel[1])), path)
    with core.opened(path) as opened:
        commands = debugger.commands(opened, str(kgdb_kernel[1]), None)
    # The symbols say that it is NetBSD's kind of kernel, so GDB gets the commands.
    argv = [host_tool("gdb"), "-nx", "-batch"]
    for command in [*commands, "nb-ps", "nb-pci", "nb-dmesg"]:
        argv += ["-ex", command]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert re.search(r"  PID  PPID LWPS STATE  COMMAND\n( +\d+ +\d+ +\d+ \w+ +\S+\n)+", shown.stdout), shown.stdout
    assert re.search(r"^\d{3}:\d\d:\d: \w+ at pci\d", shown.stdout, re.MULTILINE), shown.stdout
    assert "login: " in shown.stdout.partition("COMMAND")[2], shown.stdout


class Emulator(threading.Thread):
    """A QMP server on a socket that writes `pieces` as the dump of its memory, `seconds` after each other. Then it
    answers the command; or, as `ending` says, never answers, or closes its connection as a QEMU that is killed."""

    def __init__(self, path: Path, *pieces: bytes, seconds: float = 0, ending: str = "answers") -> None:
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._pieces, self._seconds, self._ending = pieces, seconds, ending
        self.pipe_closed = threading.Event()
        self.start()

    def run(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            connection.sendall(b'{"QMP": {}}\n')
            pipe = -1
            while True:
                data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 1)
                if not data:
                    return
                pipe = descriptors[0] if descriptors else pipe
                command = json.loads(data)["execute"]
                if command == "dump-guest-memory" and not self._dump(pipe):
                    return
                said = {"query-memory-size-summary": {"base-memory": 1 << 20}, "query-status": {"status": "running"}}
                connection.sendall(json.dumps({"return": said.get(command, {})}).encode() + b"\n")

    def _dump(self, pipe: int) -> bool:
        """Writes the dump, and returns whether the command is to be answered."""
        for piece in self._pieces:
            os.write(pipe, piece)
            time.sleep(self._seconds)
        if self._ending == "never":
            closed = select.poll()
            # poll() reports POLLERR when the pipe has no reader.
            closed.register(pipe, 0)
            if closed.poll(30_000):
                self.pipe_closed.set()
        os.close(pipe)
        return self._ending == "answers"


@pytest.fixture
def control() -> Iterator[Path]:
    """The path of a socket. In pytest's own directory, it would be too long for some systems."""
    with tempfile.TemporaryDirectory(prefix="rl") as directory:
        yield Path(directory, "q")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "QEMU has written a dump of 0 bytes of x"),
        (bytes(4096), "QEMU has written a malformed dump"),
        (b"\x7fELF\x02\x01\x01", "QEMU has written a malformed dump"),
    ],
)
def test_a_malformed_dump_of_qemu_is_reported_and_leaves_no_file(
    out: Path, control: Path, content: bytes, says: str
) -> None:
    Emulator(control, content)
    with pytest.raises(RumplabError, match=says):
        dump.write(OfKgdb("x", str(control)), Record("x"), out / "x.core")
    assert list(out.iterdir()) == []


def test_a_dump_that_qemu_does_not_finish_is_ended_and_removed(
    out: Path, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "STALL_SECONDS", 0.5)
    emulator = Emulator(control, bytes(4096), ending="never")
    with pytest.raises(RumplabError, match=r"QEMU has written nothing of x's memory for 0 s.*rumplab ps"):
        dump.write(OfKgdb("x", str(control)), Record("x"), out / "x.core")
    # With the pipe closed, QEMU's next write fails, so it ends the dump and continues the machine.
    assert emulator.pipe_closed.wait(10)
    assert list(out.iterdir()) == []


def test_a_qemu_that_hangs_during_its_dump_continues_the_machine_later(
    lab: LabPrefix, pcihello: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "STALL_SECONDS", 1.0)
    running = started(lab, pcihello, "--name", "demo", "--memory", "2G")
    machine = open_machines(config.load()).find("demo")
    with pytest.raises(RumplabError, match="QEMU has written nothing of demo's memory for 1 s"):
        # The first progress stops QEMU's process.
        dump.write(machine, Record("demo"), out / "x.core", progress=lambda *_: os.kill(running["pid"], signal.SIGSTOP))
    assert list(out.iterdir()) == []
    os.kill(running["pid"], signal.SIGCONT)
    until(lambda: state(running) == "running")
    dumped(lab, out / "x.core")


def test_a_slow_dump_may_take_longer_than_the_limit_for_a_stall(
    out: Path, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "STALL_SECONDS", 1.0)
    seen: list[tuple[int, int]] = []
    Emulator(control, *[b"x" * 1000] * 8, seconds=0.4)
    began = time.monotonic()
    with pytest.raises(RumplabError, match="malformed dump"):
        dump.write(OfKgdb("x", str(control)), Record("x"), out / "x.core", progress=lambda *now: seen.append(now))
    assert time.monotonic() - began > 3
    # The progress grows, and knows the size of the memory.
    assert len(seen) >= 4 and seen == sorted(set(seen)) and {memory for _, memory in seen} == {1 << 20}


def test_a_machine_that_ends_during_its_dump_leaves_no_file(out: Path, control: Path) -> None:
    Emulator(control, b"\x7fELF" + bytes(8192), ending="closes")
    with pytest.raises(RumplabError, match="x can't be dumped: the machine closed the connection; see its state"):
        dump.write(OfKgdb("x", str(control)), Record("x"), out / "x.core")
    assert list(out.iterdir()) == []


def caught(lab: LabPrefix, machine: dict[str, Any], out: Path, act: Callable[[], None]) -> tuple[int, str]:
    """Begins a dump, stops QEMU's process as soon as it has written something, calls `act`, and returns the command's
    exit status and messages."""
    with subprocess.Popen(
        lab.argv("dump", "demo", "-o", out / "demo.core"), env=lab.environment, stderr=subprocess.PIPE, text=True
    ) as child:
        until(lambda: any(path.stat().st_blocks for path in out.glob(".rumplab-*")) or child.poll() is not None)
        os.kill(machine["pid"], signal.SIGSTOP)
        assert child.poll() is None, "the dump was quicker than this test"
        act()
        _, said = child.communicate(timeout=60)
    return child.returncode, said


def test_a_qemu_that_is_killed_during_its_dump_leaves_no_file(lab: LabPrefix, pcihello: Path, out: Path) -> None:
    machine = started(lab, pcihello, "--name", "demo", "--memory", "2G")
    code, said = caught(lab, machine, out, lambda: os.kill(machine["pid"], signal.SIGKILL))
    assert code == 1 and "demo can't be dumped: " in said and "rumplab ps" in said, said
    assert "Traceback" not in said
    assert list(out.iterdir()) == []


def test_a_directory_that_disappears_during_the_dump_is_named(lab: LabPrefix, pcihello: Path, out: Path) -> None:
    machine = started(lab, pcihello, "--name", "demo", "--memory", "2G")

    def remove() -> None:
        shutil.rmtree(out)
        os.kill(machine["pid"], signal.SIGCONT)

    code, said = caught(lab, machine, out, remove)
    assert code == 1 and f"cannot write {out / 'demo.core'}: No such file or directory; choose another" in said, said
    assert not out.exists()
    assert state(machine) == "running"


def test_the_progress_is_shown_on_a_terminal_and_removed(lab: LabPrefix, pcihello: Path, out: Path) -> None:
    machine = started(lab, pcihello, "--name", "demo", "--memory", "2G")
    ours, theirs = pty.openpty()
    argv = lab.argv("dump", "demo", "-o", out / "demo.core")
    with subprocess.Popen(argv, env=lab.environment, stdout=subprocess.PIPE, stderr=theirs) as child:
        os.close(theirs)
        until(lambda: any(path.stat().st_blocks for path in out.glob(".rumplab-*")) or child.poll() is not None)
        os.kill(machine["pid"], signal.SIGSTOP)
        # A second without progress, so that the dump is long enough to show it.
        time.sleep(1.2)
        os.kill(machine["pid"], signal.SIGCONT)
        seen = b""
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 4096):
                seen += piece
        assert child.wait(60) == 0
    os.close(ours)
    assert re.fullmatch(rb"(\rdemo: \d+ % of 2048 MB)+\r\x1b\[K", seen), seen


def test_headers_of_qemu_that_exceed_the_file_are_reported(out: Path, demo: dict[str, Any], lab: LabPrefix) -> None:
    """Such a core is reported as cut short, and not read beyond its end."""
    path = dumped(lab, out / "demo.core")
    content = bytearray(path.read_bytes())
    at = int.from_bytes(content[32:40], "little")
    # The size of the first PT_LOAD segment.
    content[at + 56 + 32 : at + 56 + 40] = (1 << 62).to_bytes(8, "little")
    path.write_bytes(content)
    result = lab.tool("debug", "--core", path, "--batch")
    assert result.returncode == 1 and "is cut short" in result.stderr


def test_the_core_of_a_32_bit_guest_has_the_memory_below_4_gib(out: Path) -> None:
    """QEMU's dump of such a guest with more memory is a 64-bit file; its 32-bit core leaves the rest out."""
    low, high, gib = 1 << 20, 2 << 30, 1 << 30
    note = elf.note_bytes(elf.Note(cpu.QEMU, 0, bytes(cpu.FORMAT.size)))
    at = 64 + 4 * 56
    memory = [
        (at + len(note), 0, low),
        (at + len(note) + low, 2 * gib, high),
        (at + len(note) + low + high, 4 * gib, gib),
    ]
    content = elf.core_header(True, elf.EM_386, 64, 4)
    content += elf.segment_bytes(elf.Segment(elf.PT_NOTE, at, 0, 0, len(note)), True)
    content += b"".join(
        elf.segment_bytes(elf.Segment(elf.PT_LOAD, offset, 0, physical, size), True)
        for offset, physical, size in memory
    )
    path = out / "big.core"
    with path.open("w+b") as target:
        target.write(content + note + b"the first byte")
        target.truncate(at + len(note) + low + high + gib)
        target.flush()
        record = dump.finish(target.fileno(), Record("big"))
    assert record.cut
    assert path.stat().st_blocks * 512 < 1 << 20
    with core.opened(path) as found:
        assert (found.elf.wide, found.elf.machine) == (False, elf.EM_386)
        assert [(one.physical, one.size) for one in found.elf.loads()] == [(0, low), (2 * gib, high)]
        assert found.record is not None and found.record.cut
        first = found.elf.loads()[0].offset
        assert bytes(found.elf.data[first : first + 14]) == b"the first byte"


@pytest.mark.parametrize(
    "changed",
    [
        {"source_name": "/src\nshell touch /tmp/owned"},
        {"program": "/a\x1b[2Jb"},
        {"window": "high"},
        {"virtual": 1},
        {"schema": 99},
        {"name": None},
    ],
)
def test_a_forged_note_is_refused(out: Path, empty_lab: LabPrefix, changed: dict[str, Any]) -> None:
    said = json.dumps({**dataclasses.asdict(Record("x", program="/p", sources="/s")), **changed}).encode()
    note = elf.note_bytes(elf.Note(records.OWNER, records.KIND, said))
    content = elf.core_header(True, elf.EM_X86_64, 64 + len(note), 1) + note
    content += elf.segment_bytes(elf.Segment(elf.PT_NOTE, 64, 0, 0, len(note)), True)
    (out / "x.core").write_bytes(content)
    empty_lab.component("gdb", {"gdb": "/bin/echo"})
    result = empty_lab.tool("debug", "--core", out / "x.core", "--batch")
    assert result.returncode == 1 and result.stdout == ""
    assert "its note of rumplab is damaged" in result.stderr or "its note has schema" in result.stderr, result.stderr
