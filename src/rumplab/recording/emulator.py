"""Identifies a QEMU and its firmware. Only the QEMU that wrote a log can replay it, with the same firmware."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import child_environment

SECONDS = 20.0
# The firmware that a PC may execute: BIOS, video BIOS, the boot code of cards and of -kernel.
FIRMWARE = ("bios*.bin", "vgabios*.bin", "*.rom", "multiboot*.bin", "linuxboot*.bin", "kvmvapic.bin")


@dataclass(frozen=True)
class Emulator:
    """`version` is the first line of --version; `firmware` is the SHA-256 of all firmware files that QEMU finds."""

    version: str
    firmware: str


def identify(path: str) -> Emulator:
    """Returns the identity of the QEMU at `path`. RumplabError if it gives no answer."""
    version = answer(path, "--version").splitlines()
    if not version:
        raise RumplabError(f"'{path} --version' printed nothing; is it QEMU?")
    return Emulator(version[0].strip(), firmware(answer(path, "-L", "help").splitlines()))


def firmware(directories: list[str]) -> str:
    """Returns the SHA-256 of the firmware in `directories`. If several have a file of one name, the first wins, as for
    QEMU."""
    found: dict[str, Path] = {}
    for directory in directories:
        for pattern in FIRMWARE:
            for path in Path(directory.strip()).glob(pattern):
                found.setdefault(path.name, path)
    digest = hashlib.sha256()
    for name in sorted(found):
        content = found[name].read_bytes()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def answer(*argv: str) -> str:
    return completed(argv, SECONDS).stdout


def completed(argv: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Returns the end of a program of QEMU's. RumplabError if it can't run, or runs longer than `seconds`."""
    try:
        return subprocess.run(
            argv,
            env=child_environment.of(child_environment.TOOL),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RumplabError(f"'{' '.join(argv)}' gives no answer ({error}); check QEMU with: rumplab doctor") from error
