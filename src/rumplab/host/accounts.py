"""What lets an account use something that belongs to a group: a remedy that fits the facts."""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
import stat
from pathlib import Path

# Of a device that everybody's tools expect of a group; systemd's own rule for KVM has the same.
MODE = 0o660


def me() -> str:
    """This account's name, or its number where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def joining(group: str) -> str:
    """What makes this session one of `group`'s."""
    with contextlib.suppress(KeyError):
        if me() in grp.getgrnam(group).gr_mem:
            return f"you are in group {group}, but not yet in this session: log in again"
    return f"sudo usermod -aG {group} {me()}, then log in again"


def opening(device: Path, usual: str) -> str:
    """What lets this account open `device` to read and write, which it can't. `usual` is the group that such a device
    has: membership in root's own is no remedy, and in none where the group may not open it."""
    info = device.stat()
    allowed = stat.S_IMODE(info.st_mode) & 0o060 == 0o060
    if allowed and info.st_gid in (os.getegid(), *os.getgroups()):
        return f"its group may open it, and something else forbids it; in a container: --device {device}"
    if allowed and info.st_gid != 0:
        with contextlib.suppress(KeyError):
            return f"let your account open {device}: {joining(grp.getgrgid(info.st_gid).gr_name)}"
    rule = f'KERNEL=="{device.name}", GROUP="{usual}", MODE="{MODE:04o}"'
    return (
        f"{device} is for root alone (mode {stat.S_IMODE(info.st_mode):o}): give it to a group, by the udev rule"
        f" {rule}, or until the next start: sudo chgrp {usual} {device} && sudo chmod {MODE:o} {device};"
        f" then {joining(usual)}"
    )
