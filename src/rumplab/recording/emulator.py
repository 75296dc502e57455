"""Which QEMU this is: a log is repeated only by the very QEMU that wrote it, with the firmware that it had then."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import child_environment

SECONDS = 20.0
# What a PC may run of its firmware before its guest: BIOS, video BIOS, boot code of cards and of -kernel.
FIRMWARE = ("bios*.bin", "vgabios*.bin", "*.rom", "multiboot*.bin", "linuxboot*.bin", "kvmvapic.bin")


@dataclass(frozen=True)
class Emulator:
    """`version` is QEMU's own first line, `firmware` the sha256 of all the firmware it finds."""

    version: str
    firmware: str


def identify(path: str) -> Emulator:
    """The QEMU at `path`. RumplabError when it doesn't say."""
    version = answer(path, "--version").splitlines()
    if not version:
        raise RumplabError(f"'{path} --version' printed nothing; is it QEMU?")
    return Emulator(version[0].strip(), firmware(answer(path, "-L", "help").splitlines()))


def firmware(directories: list[str]) -> str:
    """The sha256 of the firmware in `directories`, of which the first that has a name counts, as for QEMU."""
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
    try:
        done = subprocess.run(
            argv,
            env=child_environment.of(child_environment.TOOL),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RumplabError(f"'{' '.join(argv)}' gives no answer: {error}") from error
    return done.stdout
