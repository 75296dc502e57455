"""The GDB commands that prepare GDB for a kernel's stub and attach to it.

GDB 7.3 and later accept the commands. This module only builds them and runs nothing. The stubs are:

``kgdb``
    NetBSD's stub. It handles only ``? g G m M c s D k``. Its buffer of 512 bytes overflows on an ``m`` whose reply
    would exactly fit. On amd64 its ``g`` has a layout that differs from GDB's; a target description
    (``gdb/scripts/kgdb-amd64.xml``) tells GDB.
``linux-kgdb``
    Linux's stub, with GDB's own layout of the registers.
``ipkdb``
    The translator ``rumplab ipkdb`` to NetBSD's IPKDB, over a pipe. It sends its own target description.
``qemu``
    QEMU's stub, on a UNIX socket or over TCP. It sends its own target description.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from rumplab.gdb import pipe
from rumplab.gdb.command_line import attached, gdb_quote

DATA = Path(__file__).resolve().parent / "scripts"
HELPERS = DATA / "netbsd.gdb"
LINUX_HELPERS = DATA / "linux.gdb"

KGDB = "kgdb"
LINUX_KGDB = "linux-kgdb"
IPKDB = "ipkdb"
QEMU = "qemu"

ARCHITECTURES = {"amd64": "i386:x86-64", "i386": "i386"}
# On a busy host, a guest without an accelerator may pause for seconds between two characters.
TIMEOUT_SECONDS = 10
# The translator to IPKDB answers only after it has opened its target; it reports a failure itself, before this time.
BRIDGE_SECONDS = 40
# The characters of a packet. An `m` requests at most half as many bytes; an `M` with its header still fits the buffer.
PACKET_SIZE = 400
# Packets that kgdb doesn't support. They are turned off to save a round trip each.
UNKNOWN_PACKETS = (
    *("supported-packets", "target-features", "trace-status", "query-attached", "symbol-lookup"),
    *("verbose-resume", "binary-download", "fetch-register", "set-register", "search-memory"),
    *("software-breakpoint", "hardware-breakpoint"),
    *("write-watchpoint", "read-watchpoint", "access-watchpoint"),
)


@dataclass(frozen=True)
class KgdbSession:
    """The stub that GDB attaches to, and the kernel's symbols and sources.

    `stub` is one of this module's constants, `architecture` a key of ARCHITECTURES. One field tells how GDB reaches the
    stub: `bridge`, the translator's command with the stub on its standard input and output (for IPKDB); `socket`, the
    UNIX socket of the guest's serial line (for KGDB and LINUX_KGDB); `remote`, the argument of 'target remote' (for
    QEMU). On Ctrl-C, the pipe sends a BREAK on the character device `line` through the QMP socket `control`, or runs
    the command `interrupt`. `sources` are pairs of a directory in the symbols and the same directory on this host.
    `linux` says that the kernel is a Linux, and not a NetBSD.
    """

    stub: str
    architecture: str
    bridge: tuple[str, ...] = ()
    socket: str = ""
    remote: str = ""
    control: str | None = None
    line: str = "com1"
    interrupt: tuple[str, ...] = ()
    symbols: str | None = None
    sources: tuple[tuple[str, str], ...] = ()
    linux: bool = False


def commands(session: KgdbSession) -> list[str]:
    """The commands that prepare GDB and attach it, and end GDB if that fails."""
    return [*preparation(session), *attached(f"target remote {target(session)}")]


def preparation(session: KgdbSession) -> list[str]:
    """The commands before ``target remote``. ValueError for an unknown stub or architecture."""
    if session.architecture not in ARCHITECTURES:
        raise ValueError(f"no architecture {session.architecture}; there are {', '.join(ARCHITECTURES)}")
    ways = {KGDB: prepare_kgdb, LINUX_KGDB: prepare_linux, IPKDB: prepare_ipkdb, QEMU: prepare_qemu}
    prepare = ways.get(session.stub)
    if prepare is None:
        raise ValueError(f"no stub {session.stub}; there are {', '.join(ways)}")
    return [
        *prepare(session),
        f"set remotetimeout {BRIDGE_SECONDS if session.stub == IPKDB else TIMEOUT_SECONDS}",
        *symbol_commands(session),
        f"source {LINUX_HELPERS if session.linux else HELPERS}",
    ]


def prepare_kgdb(session: KgdbSession) -> list[str]:
    """The settings for NetBSD's stub, which GDB needs before its first packet."""
    return [
        f"set architecture {ARCHITECTURES[session.architecture]}",
        f"set tdesc filename {description(session.architecture)}",
        f"set remote memory-read-packet-size {PACKET_SIZE}",
        f"set remote memory-write-packet-size {PACKET_SIZE}",
        # Without "fixed", GDB limits the size to that of the register reply, which is smaller.
        "set remote memory-read-packet-size fixed",
        "set remote memory-write-packet-size fixed",
        *(f"set remote {name}-packet off" for name in UNKNOWN_PACKETS),
        # The stub doesn't set debug registers, so GDB must single-step for watchpoints.
        "set can-use-hw-watchpoints 0",
    ]


def prepare_linux(session: KgdbSession) -> list[str]:
    return [f"set architecture {ARCHITECTURES[session.architecture]}"]


def prepare_ipkdb(session: KgdbSession) -> list[str]:
    """The settings for IPKDB. The protocol has no watchpoints, so GDB must single-step for them."""
    return [f"set architecture {ARCHITECTURES[session.architecture]}", "set can-use-hw-watchpoints 0"]


def prepare_qemu(_session: KgdbSession) -> list[str]:
    """The settings for QEMU's stub. That of qemu-system-x86_64 sends the registers of x86-64 also for an i386 guest."""
    return [f"set architecture {ARCHITECTURES['amd64']}"]


def description(architecture: str) -> Path:
    """The file with the target description of NetBSD's kgdb on `architecture`."""
    return DATA / f"kgdb-{architecture}.xml"


def symbol_commands(session: KgdbSession) -> list[str]:
    """The commands that load the symbols and set the directories of their sources."""
    found = [f"file {gdb_quote(session.symbols)}"] if session.symbols else []
    # GDB applies the first rule that matches, so the longest name must come first.
    for recorded, here in sorted(session.sources, key=lambda rule: len(rule[0]), reverse=True):
        found.append(f"set substitute-path {gdb_quote(recorded)} {gdb_quote(here)}")
    return found


def target(session: KgdbSession) -> str:
    """The argument of ``target remote``."""
    if session.stub == QEMU:
        return session.remote
    if session.stub == IPKDB:
        return f"| {shlex.join(session.bridge)}"
    call = pipe.argv(session.socket, session.control, session.line, session.interrupt)
    return f"| {shlex.join(call)}"
