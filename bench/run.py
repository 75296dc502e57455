"""Measure how much longer `rumplab run` takes than the QEMU command that it prints.

    tools/python bench/run.py [ROUNDS]

The benchmark needs a provisioned lab (or RUMPLAB_CONFIG) with components qemu and pcihello. Both sides boot the demo
program, which ends QEMU through isa-debug-exit. They run alternately, ROUNDS (default 15) times, so that load on the
host affects both. The benchmark prints the medians, their difference and their ratio, and asserts nothing.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from rumplab.lab import config

ROUNDS = 15
TIMEOUT = 60


def tool() -> list[str]:
    """Return the command of the lab's launcher, or of this checkout's tool if no launcher is on PATH."""
    launcher = shutil.which("rumplab")
    return [launcher] if launcher else [sys.executable, "-m", "rumplab"]


def seconds(command: list[str] | str, directory: str) -> float:
    """Return the wall-clock seconds of one run. The guest's exit status is ignored."""
    began = time.perf_counter()
    subprocess.run(
        command,
        # The printed command makes a socket in its working directory.
        cwd=directory,
        shell=isinstance(command, str),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=False,
    )
    return time.perf_counter() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    program = config.load().component("pcihello").path("program")
    run = [*tool(), "run", program, "--exit-device"]
    dry = [*run, "--dry-run"]
    bare = subprocess.run(dry, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    # With exec, the shell becomes QEMU, so that no further process is measured.
    with tempfile.TemporaryDirectory() as directory:
        pairs = [(seconds(run, directory), seconds(f"exec {bare}", directory)) for _ in range(rounds)]
    ours, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"rumplab run   {ours:.3f} s")
    print(f"bare QEMU     {floor:.3f} s")
    print(f"difference    {ours - floor:.3f} s (aim: under 0.3)")
    print(f"ratio         {ours / floor:.2f}")


if __name__ == "__main__":
    main()
