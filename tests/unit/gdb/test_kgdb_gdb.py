"""A real GDB on the kernel of examples/kgdb, through QEMU and the relay, with the commands of `guest debug`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kgdb import mangle, session
from kgdb.guest import WAITING, Guest
from support.labfixture import SOURCE
from support.staging import KGDB_EXAMPLE, command, needs_compiler, needs_qemu

from rumplab.gdb import kgdb_commands
from rumplab.gdb.kgdb_commands import KgdbSession

pytestmark = [pytest.mark.qemu, needs_qemu, needs_compiler]

# The general registers, in the order that GDB and kgdb use, and the stack pointer.
GENERAL = {
    "amd64": ("rax rbx rcx rdx rsi rdi rbp r8 r9 r10 r11 r12 r13 r14 r15", "rsp"),
    "i386": ("eax ecx edx ebx ebp esi edi", "esp"),
}


@pytest.fixture(scope="module")
def gdb() -> str:
    return command("gdb")


@pytest.fixture
def prepared(guest: Guest, kgdb_kernel: tuple[str, Path]) -> KgdbSession:
    return session.session(guest, *kgdb_kernel, KGDB_EXAMPLE)


def found(pattern: str, said: str) -> re.Match[str]:
    match = re.search(pattern, said, re.MULTILINE)
    assert match is not None, said
    return match


def drive(gdb: str, of: KgdbSession, *wanted: str) -> str:
    return session.drive(gdb, kgdb_commands.commands(of), wanted)


def test_breaks_steps_and_shows_sources(gdb: str, prepared: KgdbSession) -> None:
    said = drive(
        gdb, prepared,
        *("break counter_step if ticks > 9", "continue", "bt", "p amount == ((ticks - 1) & 3)"),
        *("p counter", "stepi", "next", "p counter", "continue", "finish", "info breakpoints"),
    )  # fmt: skip
    assert "kgdb_connect (verbose=" in said, "it stopped here before GDB attached"
    assert 'printf("connected.\\n");' in said, "the text of the source file"
    found(r"^Breakpoint 1, counter_step \(amount=", said)
    found(r"^#0  counter_step \(.*\) at .*main\.c:\d+\n#1  .* workload \(.*\n#2  .* main \(", said)
    before, after = (int(value) for value in re.findall(r"^\$[23] = (\d+)$", said, re.MULTILINE))
    amount = int(found(r"counter_step \(amount=(?:amount@entry=)?(\d+)\)", said)[1])
    assert after == before + amount
    assert int(found(r"^Value returned is \$\d+ = (\d+)$", said)[1]) >= after
    assert "breakpoint already hit 2 times" in said


def test_every_register_is_right_and_can_be_set(gdb: str, prepared: KgdbSession) -> None:
    """Compare GDB's registers with the kernel's own instructions, before and after GDB sets them."""
    architecture = prepared.architecture
    names, stack = GENERAL[architecture]
    values = {name: 0x1111 * (index + 1) for index, name in enumerate(names.split())}
    said = drive(
        gdb, prepared,
        *("break counter_step", "continue"),
        *(f"set ${name} = {value:#x}" for name, value in values.items()),
        # Read the registers from the kernel again, not from GDB's cache.
        "flushregs",
        *(f'printf "{name}=%lx\\n", ${name}' for name in (*values, stack, "cs", "ss")),
        'printf "pc=%d\\n", $pc == &counter_step',
        'printf "flags=%lx\\n", $eflags',
        "p $eflags",
        f'printf "top=%d\\n", *(long *) ${stack} > (long) workload && *(long *) ${stack} < (long) main',
    )  # fmt: skip
    shown = dict(re.findall(r"^(\w+)=([0-9a-f]+)$", said, re.MULTILINE))
    assert {name: int(shown[name], 16) for name in values} == values, said
    assert (shown["cs"], shown["ss"]) == ("8", "10"), "a wrong layout shows here first"
    assert shown["pc"] == "1"
    assert shown["top"] == "1", "the return address lies on the stack"
    # Bit 1 is always set; bit 9 is clear, since the workload runs without interrupts.
    assert int(shown["flags"], 16) & 0x202 == 2
    found(r"^\$\d+ = \[ .*\]$", said)


def test_registers_that_kgdb_does_not_have_are_unavailable(gdb: str, prepared: KgdbSession) -> None:
    said = drive(gdb, prepared, "info registers", "p $st0", "p $fctrl")
    assert said.count("<unavailable>") == (6 if prepared.architecture == "amd64" else 2)


def test_without_the_description_stock_gdb_misreads_amd64_alone(gdb: str, prepared: KgdbSession) -> None:
    """The reason for the description: if this test fails, GDB knows the layout, and the description can be deleted."""
    commands = [one for one in kgdb_commands.commands(prepared) if "tdesc" not in one]
    said = session.drive(gdb, commands, ["info registers eflags cs ss"])
    right = bool(re.search(r"^ss +0x10 ", said, re.MULTILINE))
    assert right == (prepared.architecture == "i386"), said


def test_memory_is_read_and_written_in_small_packets(gdb: str, prepared: KgdbSession, tmp_path: Path) -> None:
    log, image = tmp_path / "packets", tmp_path / "ramdisk"
    wanted = (
        f"dump binary memory {image} &ramdisk[0] &ramdisk[4000]",
        "p/x *(unsigned *) &ramdisk[64] = 0x11223344",
        "p/x ramdisk[65]",
        f"restore {image} binary &ramdisk[100] 0 300",
        "p ramdisk[100] == ramdisk[0]",
        "p ramdisk[399] == (unsigned char) (299 * 167)",
        "x/4xb &memory_hole",
        "x/4xb 0x70000000",
    )
    # GDB logs only a connection that it opens after this setting.
    said = session.drive(gdb, [f"set remotelogfile {log}", *kgdb_commands.commands(prepared)], wanted)
    assert said.count(" = 1\n") == 2
    assert image.read_bytes() == bytes(n * 167 % 256 for n in range(4000))
    found(r"^\$1 = 0x11223344$", said)
    found(r"^\$2 = 0x33$", said)
    assert "Cannot access memory at address 0x70000000" in said
    assert said.count("Cannot access memory") == 2
    # GDB writes the acknowledgement and the next packet as one line of the log.
    lines = re.findall(r"^w (.*)$", log.read_text("latin-1"), re.MULTILINE)
    sent = [one for line in lines for one in re.findall(r"\$[^#]*#..", line)]
    lengths = [int(one[1], 16) for line in sent if (one := re.match(r"\$m[0-9a-f]+,([0-9a-f]+)#", line))]
    assert len(lengths) > 4000 // 200
    assert max(lengths) <= 200, "256 is one too many for the kernel's buffer"
    assert max(map(len, sent)) < 512
    unknown = [line for line in sent if line[1] not in "?gGmMcsDkHqv"]
    assert unknown == [], "only packets that kgdb knows"


def test_ctrl_c_stops_a_running_kernel(gdb: str, guest: Guest, prepared: KgdbSession) -> None:
    said = session.interrupted(gdb, guest, prepared, ["bt", "p ticks > 0", "detach"])
    found(r"received signal SIGTRAP", said)
    # The backtrace goes through the interrupt handler to the interrupted function.
    order = ("kgdb_connect", "com_interrupt", "trap", "<signal handler called>", "workload", "main")
    found("^#0  " + "(.|\n)* ".join(map(re.escape, order)), said)
    found(r"^\$1 = 1$", said)
    guest.wait_for("kgdb detached\nconnected.\n")
    guest.type("root", "uname")
    guest.wait_for("\nkgdbdemo/", 2)


def test_ctrl_c_runs_a_command_where_one_is_given(
    gdb: str, guest: Guest, prepared: KgdbSession, tmp_path: Path
) -> None:
    mark = tmp_path / "ran it"
    code = (
        "import pathlib, sys; from rumplab.gdb.pipe import send_break;"
        "pathlib.Path(sys.argv[1]).touch(); send_break(sys.argv[2], 'com1')"
    )
    way = ("env", f"PYTHONPATH={SOURCE}", sys.executable, "-c", code, str(mark), str(guest.control))
    said = session.interrupted(gdb, guest, replace(prepared, interrupt=way), ["p $pc"])
    assert mark.exists()
    assert "kgdb_connect" in said


def test_detach_break_in_and_attach_again(gdb: str, guest: Guest, prepared: KgdbSession) -> None:
    first = drive(gdb, prepared, "break counter_step if ticks > 3", "continue", "delete", "detach")
    assert "Breakpoint 1, counter_step" in first
    guest.wait_for("login: ")
    guest.send_break()
    guest.wait_for(WAITING, 2)
    second = drive(gdb, prepared, "p ticks > 3", "p ticks", "kill")
    found(r"^\$1 = 1$", second)
    assert "kgdb_connect" in second
    guest.wait_for("connected.\n", 2)
    guest.type("root", "uname")
    guest.wait_for("\nkgdbdemo/", 2)


def test_watches_by_single_steps(gdb: str, prepared: KgdbSession) -> None:
    said = drive(gdb, prepared, "break counter_step if amount == 1", "continue", "watch counter", "continue")
    found(r"^Watchpoint 2: counter$", said)
    found(r"^Old value = (\d+)\nNew value = (\d+)$", said)


def test_a_fault_of_the_kernel_is_a_signal(gdb: str, prepared: KgdbSession) -> None:
    said = drive(gdb, prepared, "set $pc = 0x70000000", "continue", "p/x $pc")
    found(r"SIGSEGV", said)
    found(r"^\$1 = 0x70000000$", said)


def test_a_noisy_line_only_costs_time(gdb: str, guest: Guest, prepared: KgdbSession, tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    bad = shlex.join([sys.executable, str(Path(mangle.__file__)), str(guest.line), str(counts)])
    before = kgdb_commands.preparation(prepared)
    said = session.drive(
        gdb,
        [*before, f"target remote | {bad}"],
        ["break counter_step if ticks > 2", "continue", "bt", "p msgbufp->msg_magic", "nb-ps", "detach"],
    )
    found(r"^#2  .* main \(", said)
    found(rf"^\$1 = {0x063061}$", said)
    found(r"^ +1 +0 +1 active init$", said)
    to_guest, from_guest = map(int, counts.read_text().split())
    assert min(to_guest, from_guest) > 5


def test_netbsd_commands(gdb: str, kgdb_guests: Callable[..., Guest], kgdb_kernel: tuple[str, Path]) -> None:
    function = "virtio-rng-pci,bus=pci.1,disable-modern=on,multifunction=on,addr=7."
    bridge = ("-device", "pci-bridge,chassis_nr=2,id=pci.1")
    guest = kgdb_guests(extra=(*bridge, "-device", f"{function}0", "-device", f"{function}5"))
    guest.wait_for(WAITING)
    of = session.session(guest, *kgdb_kernel)
    early = drive(gdb, of, "nb-ps", "nb-pci", "nb-dmesg", "break counter_step", "continue", "delete", "detach")
    assert re.search(r"^  PID  PPID LWPS STATE  COMMAND\n.*kgdbdemo/", early, re.MULTILINE | re.DOTALL)
    guest.wait_for("login: ")
    # Enough output to wrap the message buffer.
    guest.type("root", *("pcictl pci0 list",) * 7, "echo the end")
    guest.wait_for("\nthe end\n")
    guest.send_break()
    guest.wait_for(WAITING, 2)
    said = drive(gdb, of, "nb-ps", "nb-pci", "nb-dmesg")
    found(r"^   27     1    1 active syslogd$", said)
    found(r"^    0     0    2 active system$", said)
    found(r"^000:01:0: pcib0 at pci0$", said)
    found(r"^001:07:5: virtio1 at pci1$", said)
    dmesg = said[said.index("virtio1 at pci1\n") :]
    assert "# kgdb waiting..." in dmesg
    assert "the end\n" in dmesg
    assert "piixide0" not in dmesg, "the message buffer has wrapped"
    assert "\0" not in said
