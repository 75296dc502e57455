"""Compare the time of `rumplab export` with that of `qemu-img convert` alone, which is the least possible.

    tools/python bench/export.py [MIB] [ROUNDS]

`rumplab stage` makes a sparse image of 1 GiB, from a program of 20 MiB and a volume with MIB (default: 0, then 512)
mebibytes of random data. The benchmark exports this image. Both sides run alternately, ROUNDS (default 7) times, with
the tools of the provisioned lab. It prints the medians in seconds and their ratio, and asserts nothing.
"""

from __future__ import annotations

import os
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
PROGRAM = 20
VOLUMES = (0, 512)
SUBFORMATS = ("monolithicSparse", "streamOptimized")


def write_random(path: Path, mib: int, head: bytes = b"") -> None:
    with open(path, "wb") as file:
        file.write(head)
        for _ in range(mib):
            file.write(os.urandom(MIB))


def program_head() -> bytes:
    """Return an ELF header and a Multiboot header, which the stager accepts as a program."""
    magic, flags = 0x1BADB002, 0x10003
    elf = struct.pack("<4sBBB9xHH", b"\x7fELF", 2, 1, 1, 2, 62).ljust(64, b"\0")
    return elf + struct.pack("<III", magic, flags, -(magic + flags) & 0xFFFFFFFF)


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rumplab(*arguments: str | Path) -> None:
    argv = [sys.executable, "-m", "rumplab", *map(str, arguments)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def convert(qemu_img: str, image: Path, scratch: Path, subformat: str) -> None:
    target = scratch / "bare.vmdk"
    target.unlink(missing_ok=True)
    argv = [qemu_img, "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}"]
    subprocess.run([*argv, str(image), str(target)], check=True)


def compare(qemu_img: str, scratch: Path, mib: int, rounds: int, subformat: str) -> None:
    volume, image = scratch / f"{mib}", scratch / f"{mib}.img"
    if not image.exists():
        volume.mkdir()
        write_random(scratch / "program.bin", PROGRAM, program_head())
        write_random(volume / "data", mib)
        rumplab("stage", scratch / "program.bin", "-o", image, "--volume", volume, "--size", "1G")
    options = ("--subformat", subformat, "--force")
    pairs = [
        (
            seconds(lambda: convert(qemu_img, image, scratch, subformat)),
            seconds(lambda: rumplab("export", image, "--vmware", scratch / "vm", *options)),
        )
        for _ in range(rounds)
    ]
    bare, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"1 GiB sparse, volume {mib} MiB, {subformat}, {rounds} rounds, medians")
    print(f"  qemu-img convert  {bare:.3f} s")
    print(f"  rumplab export    {ours:.3f} s  {ours / bare:.2f} x, {ours - bare:.3f} s more")


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:3]]
    volumes = given[:1] or VOLUMES
    rounds = given[1] if len(given) > 1 else 7
    qemu_img = config.load().component("qemu").path("qemu-img")
    with tempfile.TemporaryDirectory() as name:
        for mib in volumes:
            for subformat in SUBFORMATS:
                compare(qemu_img, Path(name), mib, rounds, subformat)


if __name__ == "__main__":
    main()
