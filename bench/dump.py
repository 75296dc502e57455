"""Measure a dump of a machine with 128 MiB, and GDB on that dump up to its first backtrace.

    tools/python bench/dump.py [ROUNDS]

Needs a provisioned lab (or RUMPLAB_CONFIG) with components qemu, gdb and pcihello. The demo's machine runs while it is
dumped: by `rumplab dump` and by QEMU's own command. `rumplab debug --core` and GDB without rumplab then open the dump.
The sides run alternately, ROUNDS (default 7) times. The benchmark prints medians, ratios and aims, and asserts nothing.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rumplab.lab import config
from rumplab.machine import qmp
from rumplab.machine.registry import open_machines

ROUNDS = 7
PATIENCE = 120
NAME = "bench-dump"
DUMP_AIM, DEBUG_AIM = 2.0, 1.0


def tool() -> list[str]:
    """Return the launcher of the provisioned lab; without one, the tool of this checkout."""
    launcher = shutil.which("rumplab")
    return [launcher] if launcher else [sys.executable, "-m", "rumplab"]


def run(argv: list[str]) -> None:
    subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
    )


def seconds(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    lab = config.load()
    program, gdb = lab.component("pcihello").path("program"), lab.component("gdb").path("gdb")
    run([*tool(), "run", program, "--detach", "--name", NAME, "--memory", "128M"])
    try:
        machine = open_machines(lab).find(NAME)
        # The demo has printed everything and halts by then.
        time.sleep(5)
        with tempfile.TemporaryDirectory() as directory:
            ours, bare = Path(directory, "ours.core"), Path(directory, "bare.core")
            dump = {"paging": False, "protocol": f"file:{bare}"}
            words = ["-nx", "-batch", "-ex", f"file {program}", "-ex", f"core-file {ours}", "-ex", "bt"]
            bare_gdb = [gdb, "-ex", "set osabi GNU/Linux", *words]

            def by_hand() -> None:
                bare.unlink(missing_ok=True)
                qmp.execute(machine.socket, "dump-guest-memory", PATIENCE, dump)

            sides: list[Callable[[], None]] = [
                lambda: run([*tool(), "dump", NAME, "-o", str(ours)]),
                by_hand,
                lambda: run([*tool(), "debug", "--core", str(ours), "--batch", "--ex", "bt"]),
                lambda: run(bare_gdb),
            ]
            taken = [[seconds(side) for side in sides] for _ in range(rounds)]
            size = ours.stat().st_blocks * 512, bare.stat().st_blocks * 512
    finally:
        run([*tool(), "stop", NAME])
    dumped, floor, opened, gdb_alone = (statistics.median(side) for side in zip(*taken, strict=True))
    print(f"rumplab dump          {dumped:.3f} s (aim: up to {DUMP_AIM:.0f}), {size[0] >> 20} MiB on disk")
    print(f"QEMU's own            {floor:.3f} s, {size[1] >> 20} MiB on disk; ratio {dumped / floor:.2f}")
    print(f"debug --core to bt    {opened:.3f} s (aim: up to {DEBUG_AIM:.0f})")
    print(f"bare GDB              {gdb_alone:.3f} s; ratio {opened / gdb_alone:.2f}")


if __name__ == "__main__":
    main()
