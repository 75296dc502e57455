"""Compare kgdb with QEMU's stub, and a GDB that the lab prepares with one that is started directly.

    tools/python bench/kgdb.py [ROUNDS]

The benchmark needs gcc, make, QEMU and GDB on PATH. It builds examples/kgdb, and prints one line each:

- the seconds from the start of QEMU to GDB's prompt in the waiting kernel, by hand (`target remote` on the socket,
  without target description and settings) and as the lab prepares GDB, and their ratio
- the seconds, rate and packets that reading 1 MiB of the guest takes, through kgdb and through QEMU's stub

It asserts nothing.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kgdb import session
from kgdb.guest import WAITING, Guest
from support.demos import KGDB_EXAMPLE, build

from rumplab.gdb import kgdb_commands
from rumplab.gdb.kgdb_commands import QEMU, KgdbSession
from rumplab.host import ports

ROUNDS = 5
MIB = 1 << 20
TIMEOUT = 300


def run(prepared: Sequence[str], wanted: Sequence[str]) -> None:
    """Run GDB with these commands; exit if it didn't reach the kernel."""
    said = session.drive("gdb", prepared, [*wanted, 'printf "at %d\\n", counter'], TIMEOUT)
    if "at 0" not in said:
        sys.exit(f"GDB did not reach the kernel:\n{said}")


def stamp(file: Path) -> str:
    """Return the GDB command that writes the time to `file`, in seconds."""
    return f"shell date +%s.%N > {file}"


def to_prompt(program: Path, by_hand: bool) -> float:
    """Return the seconds from the start of QEMU until GDB has printed a variable of the kernel."""
    with tempfile.TemporaryDirectory(prefix="rk") as directory:
        began = time.time()
        with Guest(program, Path(directory)) as guest:
            guest.wait_for(WAITING)
            if by_hand:
                prepared = [f"file {program}", f"target remote {guest.line}"]
            else:
                prepared = kgdb_commands.commands(session.session(guest, "amd64", program))
            prompt = Path(directory) / "prompt"
            run(prepared, [stamp(prompt)])
            return float(prompt.read_text()) - began


def read_back(program: Path, stub: str) -> tuple[float, int]:
    """Return the seconds and packets that reading 1 MiB of the guest takes, without GDB's start."""
    port = ports.free()
    extra = ("-gdb", f"tcp:127.0.0.1:{port}")
    with tempfile.TemporaryDirectory(prefix="rk") as directory, Guest(program, Path(directory), extra=extra) as guest:
        guest.wait_for(WAITING)
        of = session.session(guest, "amd64", program)
        if stub == QEMU:
            of = KgdbSession(stub=QEMU, architecture="amd64", remote=f"127.0.0.1:{port}", symbols=str(program))
        log, image = Path(directory) / "packets", Path(directory) / "memory"
        prepared = [f"set remotelogfile {log}", *kgdb_commands.commands(of)]
        began, ended = Path(directory) / "began", Path(directory) / "ended"
        run(
            prepared,
            [stamp(began), f"dump binary memory {image} &ramdisk[0] &ramdisk[{MIB}]", stamp(ended)],
        )
        if image.read_bytes() != bytes(n * 167 % 256 for n in range(256)) * (MIB // 256):
            sys.exit("bench/kgdb.py: GDB read other bytes than the guest's memory has")
        packets = len(re.findall(r"\$m[0-9a-f]+,[0-9a-f]+#", log.read_text("latin-1")))
        return float(ended.read_text()) - float(began.read_text()), packets


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as directory:
        program = build(KGDB_EXAMPLE, Path(directory) / "kgdb.bin", "ARCH=amd64")
        pairs = [(to_prompt(program, True), to_prompt(program, False)) for _ in range(rounds)]
        hand, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"to the prompt: by hand {hand:.2f} s, prepared {ours:.2f} s, ratio {ours / hand:.2f}")
        for stub in (kgdb_commands.KGDB, QEMU):
            seconds, packets = read_back(program, stub)
            print(f"1 MiB by {stub}: {seconds:.2f} s, {MIB / 1024 / seconds:.0f} KiB/s, {packets} packets")


if __name__ == "__main__":
    main()
