"""What `rumplab run` adds to the QEMU command that it prints.

    tools/python bench/run.py [ROUNDS]

Needs a provisioned lab (or RUMPLAB_CONFIG) with components qemu and pcihello. Both sides boot the demo
program, which ends QEMU by isa-debug-exit; they take turns, so that a busy host hurts both alike. Prints
medians, the difference in seconds and the ratio; asserts nothing.
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
PATIENCE = 60


def tool() -> list[str]:
    """The launcher of the provisioned lab, else the tool from this checkout."""
    launcher = shutil.which("rumplab")
    return [launcher] if launcher else [sys.executable, "-m", "rumplab"]


def seconds(command: list[str] | str, directory: str) -> float:
    """Wall-clock seconds of one run. The guest's exit status is not this benchmark's business."""
    began = time.perf_counter()
    subprocess.run(
        command,
        # The printed command makes a socket where it is run.
        cwd=directory,
        shell=isinstance(command, str),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    return time.perf_counter() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    program = config.load().component("pcihello").path("program")
    run = [*tool(), "run", program, "--exit-device"]
    dry = [*run, "--dry-run"]
    bare = subprocess.run(dry, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    # The shell must not stand between: exec makes it QEMU itself.
    with tempfile.TemporaryDirectory() as directory:
        pairs = [(seconds(run, directory), seconds(f"exec {bare}", directory)) for _ in range(rounds)]
    ours, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"rumplab run   {ours:.3f} s")
    print(f"bare QEMU     {floor:.3f} s")
    print(f"difference    {ours - floor:.3f} s (aim: under 0.3)")
    print(f"ratio         {ours / floor:.2f}")


if __name__ == "__main__":
    main()
