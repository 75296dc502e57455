"""GDB's side of a session with a kernel: the commands that prepare GDB for the stub, and attach it.

Nothing here is newer than GDB 7.3 and nothing runs anything. The stubs:

``kgdb``
    NetBSD's. Knows ``? g G m M c s D k`` only, and its buffer of 512 bytes overflows on the ``m`` that would just
    fit. ``g`` has a layout of its own on amd64, which a target description tells GDB (``gdb/kgdb-amd64.xml``).
``linux-kgdb``
    Linux's, with GDB's own layout of the registers.
``ipkdb``
    What ``rumplab ipkdb`` makes of NetBSD's IPKDB, over a pipe; it describes itself.
``qemu``
    QEMU's, on a socket of its user's or over TCP, which describes itself.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from rumplab.gdb import pipe
from rumplab.gdb.command_line import attached, gdb_quote

DATA = Path(__file__).resolve().parent / "scripts"
HELPERS = DATA / "netbsd.gdb"

KGDB = "kgdb"
LINUX_KGDB = "linux-kgdb"
IPKDB = "ipkdb"
QEMU = "qemu"

ARCHITECTURES = {"amd64": "i386:x86-64", "i386": "i386"}
# A guest without acceleration on a busy host takes its time between two characters.
TIMEOUT_SECONDS = 10
# The bridge to IPKDB answers once it has opened its target, which it says itself when it can't.
BRIDGE_SECONDS = 40
# Characters of a packet: an `m` asks for half of it at most, and with room for the header, an `M` fits too.
PACKET_SIZE = 400
# What kgdb answers with an empty packet. It does no harm to ask, but each question is a round trip.
UNKNOWN_PACKETS = (
    *("supported-packets", "target-features", "trace-status", "query-attached", "symbol-lookup"),
    *("verbose-resume", "binary-download", "fetch-register", "set-register", "search-memory"),
    *("software-breakpoint", "hardware-breakpoint"),
    *("write-watchpoint", "read-watchpoint", "access-watchpoint"),
)


@dataclass(frozen=True)
class KgdbSession:
    """What GDB is to be attached to.

    `stub` and `architecture` are names of this module's. `bridge` is the command that speaks for the stub on its
    standard input and output (of IPKDB), `socket` the UNIX socket of the guest's serial line (of KGDB and LINUX_KGDB),
    `remote` what 'target remote' takes (of QEMU). Ctrl-C in GDB sends a BREAK on the character device `line` through
    the QMP socket `control`, or runs the command `interrupt`. `sources` maps directories as the symbols name them to
    where they are here.
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


def commands(session: KgdbSession) -> list[str]:
    """GDB's commands that attach, and end GDB when that fails."""
    return [*preparation(session), *attached(f"target remote {target(session)}")]


def preparation(session: KgdbSession) -> list[str]:
    """What comes before ``target remote``. ValueError for a stub or an architecture that there isn't."""
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
        *([f"source {HELPERS}"] if session.stub != LINUX_KGDB else []),
    ]


def prepare_kgdb(session: KgdbSession) -> list[str]:
    """What GDB must know of NetBSD's stub before its first packet."""
    return [
        f"set architecture {ARCHITECTURES[session.architecture]}",
        f"set tdesc filename {description(session.architecture)}",
        f"set remote memory-read-packet-size {PACKET_SIZE}",
        f"set remote memory-write-packet-size {PACKET_SIZE}",
        # Else GDB goes by the size of the last register reply, which is less.
        "set remote memory-read-packet-size fixed",
        "set remote memory-write-packet-size fixed",
        *(f"set remote {name}-packet off" for name in UNKNOWN_PACKETS),
        # The stub sets no debug registers: watchpoints are made of single steps.
        "set can-use-hw-watchpoints 0",
    ]


def prepare_linux(session: KgdbSession) -> list[str]:
    return [f"set architecture {ARCHITECTURES[session.architecture]}"]


def prepare_ipkdb(session: KgdbSession) -> list[str]:
    """The protocol has no watchpoints: GDB makes them of single steps."""
    return [f"set architecture {ARCHITECTURES[session.architecture]}", "set can-use-hw-watchpoints 0"]


def prepare_qemu(_session: KgdbSession) -> list[str]:
    """The stub of qemu-system-x86_64 has the registers of x86-64 also for a guest of i386."""
    return [f"set architecture {ARCHITECTURES['amd64']}"]


def description(architecture: str) -> Path:
    """The target description of NetBSD's kgdb on `architecture`."""
    return DATA / f"kgdb-{architecture}.xml"


def symbol_commands(session: KgdbSession) -> list[str]:
    """The symbols, and where their sources are."""
    found = [f"file {gdb_quote(session.symbols)}"] if session.symbols else []
    # GDB takes the first rule that fits, so the longest name must come first.
    for recorded, here in sorted(session.sources, key=lambda rule: len(rule[0]), reverse=True):
        found.append(f"set substitute-path {gdb_quote(recorded)} {gdb_quote(here)}")
    return found


def target(session: KgdbSession) -> str:
    """What ``target remote`` takes."""
    if session.stub == QEMU:
        return session.remote
    if session.stub == IPKDB:
        return f"| {shlex.join(session.bridge)}"
    call = pipe.argv(session.socket, session.control, session.line, session.interrupt)
    return f"| {shlex.join(call)}"
