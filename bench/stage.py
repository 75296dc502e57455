"""Compare the time of `rumplab stage` with the least possible: `mke2fs -d` and one copy of the program.

    tools/python bench/stage.py [MIB] [ROUNDS]

The benchmark stages a program of MIB (default 20) mebibytes of random data. Both sides run alternately, ROUNDS
(default 7) times, with the tools of the provisioned lab. The benchmark prints the medians in seconds, their ratio and
the peak memory, and asserts nothing.
"""

from __future__ import annotations

import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rumplab.lab import config

MIB = 1024 * 1024


def write_program(path: Path, mib: int) -> None:
    """Write a file that the stager accepts as a program: an ELF header, a Multiboot header and random bytes."""
    magic, flags = 0x1BADB002, 0x10003
    head = struct.pack("<4sBBB9xHH", b"\x7fELF", 2, 1, 1, 2, 62).ljust(64, b"\0")
    header = struct.pack("<III", magic, flags, -(magic + flags) & 0xFFFFFFFF)
    with open(path, "wb") as file:
        file.write(head + header)
        for _ in range(mib):
            file.write(os.urandom(MIB))


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def floor(mke2fs: str, tree: Path, program: Path, scratch: Path, mib: int) -> None:
    """Make a file system image from a directory, and copy the program once."""
    image = scratch / "floor.img"
    image.unlink(missing_ok=True)
    argv = [mke2fs, "-q", "-F", "-t", "ext2", "-d", str(tree), str(image), f"{mib * 11 // 10 + 8}M"]
    subprocess.run(argv, check=True, capture_output=True)
    subprocess.run(["cp", "--reflink=never", str(program), str(scratch / "copy")], check=True)


def stage(program: Path, scratch: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "rumplab",
        "stage",
        str(program),
        "-o",
        str(scratch / "stage.img"),
        "--force",
    ]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def peak_of_children() -> float:
    """Return the largest resident set of all ended child processes, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / MIB


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:3]]
    mib, rounds = given + [20, 7][len(given) :]
    mke2fs = config.load().component("rump_stager").path("mke2fs")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tree = scratch / "tree"
        tree.mkdir()
        program = tree / "program.bin"
        write_program(program, mib)
        stage(program, scratch)
        peak = peak_of_children()
        pairs = [
            (
                seconds(lambda: floor(mke2fs, tree, program, scratch, mib)),
                seconds(lambda: stage(program, scratch)),
            )
            for _ in range(rounds)
        ]
    bare, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"program {mib} MiB, {rounds} rounds, medians")
    print(f"floor (mke2fs -d, cp)  {bare:.3f} s")
    print(f"rumplab stage          {ours:.3f} s  {ours / bare:.2f} x floor")
    print(f"peak memory of a process of rumplab stage  {peak:.0f} MiB")


if __name__ == "__main__":
    main()
