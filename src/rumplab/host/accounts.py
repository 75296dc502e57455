"""Remedies for a user who lacks access to a group's device: they depend on its owner and mode and the user's groups."""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
import stat
from pathlib import Path

# The mode that the remedy gives a device. systemd's udev rule gives /dev/kvm the same.
MODE = 0o660


def account_name() -> str:
    """Returns this account's name, or its user id if it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def how_to_join(group: str) -> str:
    """Returns what the user must do so that the session has the group `group`."""
    with contextlib.suppress(KeyError):
        if account_name() in grp.getgrnam(group).gr_mem:
            return f"you are in group {group}, but this session isn't yet: log in again"
    return f"sudo usermod -aG {group} {account_name()}, then log in again"


def how_to_open(device: Path, usual: str) -> str:
    """Returns what the user must do to get read and write access to `device`, which this account can't open now.

    `usual` is the group that normally has such a device. The remedy names it if the device's group is root, which no
    user should join, or if the mode gives the group no access.
    """
    info = device.stat()
    allowed = stat.S_IMODE(info.st_mode) & 0o060 == 0o060
    if allowed and info.st_gid in (os.getegid(), *os.getgroups()):
        return f"your group has access to {device}, but something else forbids it; in a container: --device {device}"
    if allowed and info.st_gid != 0:
        with contextlib.suppress(KeyError):
            return f"let your account open {device}: {how_to_join(grp.getgrgid(info.st_gid).gr_name)}"
    rule = f'KERNEL=="{device.name}", GROUP="{usual}", MODE="{MODE:04o}"'
    return (
        f"{device} is for root alone (mode {stat.S_IMODE(info.st_mode):o}); give it to a group with the udev rule"
        f" {rule}, or until the next boot with: sudo chgrp {usual} {device} && sudo chmod {MODE:o} {device};"
        f" then {how_to_join(usual)}"
    )
