"""An ext4 on a loop device, whose power can be cut: for tests of what is on the disk at that moment. Needs root."""

from __future__ import annotations

import array
import fcntl
import os
import subprocess
import time
from pathlib import Path

# EXT4_IOC_SHUTDOWN of linux/fs/ext4/ext4.h, and its flag: drop the journal's pending transactions too.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
SECONDS = 60.0


def make(image: Path, megabytes: int = 64) -> None:
    """Write an empty ext4 to a file."""
    with open(image, "wb") as stream:
        stream.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=SECONDS)


def mount(image: Path, place: Path) -> None:
    """Mount it. CalledProcessError, with mount's output, on a host without loop devices."""
    argv = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(argv, check=True, capture_output=True, timeout=SECONDS)


def cut_power(place: Path) -> None:
    """Shut the file system down: nothing more is written to the disk."""
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, SHUTDOWN, array.array("I", [NO_LOG_FLUSH]))
    finally:
        os.close(handle)


def loops(image: Path) -> str:
    """Return what losetup says of the loop devices of the image; "" for none."""
    argv = ["losetup", "--associated", str(image)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=True).stdout.strip()


def unmount(image: Path, place: Path) -> None:
    """Unmount it, and wait until its loop device is free. TimeoutError after SECONDS.

    A container that starts meanwhile copies the mount namespace and holds the file system for a moment. A mount would
    then get the same file system again, shut down as it is, and every access would fail with EIO.
    """
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if os.path.ismount(place):
            subprocess.run(["umount", str(place)], capture_output=True, timeout=SECONDS, check=False)
        elif not loops(image):
            return
        time.sleep(0.1)
    raise TimeoutError(f"{place} can't be unmounted: {loops(image)}")
