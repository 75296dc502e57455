"""Finds the processes that are attached to the bridge, and the names of those that are machines of the lab."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab.host import holders, process
from rumplab.host.answers import MALFORMED
from rumplab.machine.registry import NAME, RECORD, SOCKET

TUN = "/dev/net/tun"
# Far more than a record needs.
RECORD_BYTES = 1 << 20
# The argument of QEMU with the machine's control socket; the machine's record is in the same directory.
CONTROL = re.compile(rf"socket,id=control,path=(.+)/{re.escape(SOCKET)},.*", re.DOTALL)
IFF = re.compile(r"^iff:\s*(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Port:
    """An interface on the bridge. `pid` is None when no visible process has it open."""

    name: str
    pid: int | None = None
    command: str = ""
    machine: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return self.name
        who = f"machine '{self.machine}'" if self.machine else self.command
        return f"{self.name} ({who}, pid {self.pid})"


def tap(descriptor: Path) -> str | None:
    """The name of the tap that the open file ``/proc/PID/fd/N`` belongs to; None when it isn't a tap."""
    if os.readlink(descriptor) != TUN:
        return None
    info = descriptor.parent.with_name("fdinfo") / descriptor.name
    found = IFF.search(info.read_text(encoding="utf-8"))
    return found[1] if found else None


def holders_of_taps(proc: Path = holders.PROC) -> dict[str, int]:
    """Maps each tap's name to the pid of the process that has it open, for the processes that this user may inspect."""
    return {name: pid for pid, name in holders.each(tap, proc) if name}


def machine_name(pid: int, proc: Path = holders.PROC) -> str:
    """The name of the process's machine, from the record of the process's user; '' when there is no readable record.

    Any user can write such a file and root reads it, so a record counts only if its owner also owns the process.
    """
    for word in process.words(pid, proc):
        control = CONTROL.fullmatch(word)
        if control is None:
            continue
        with contextlib.suppress(OSError, *MALFORMED):
            data, owner = read_record(Path(control[1].replace(",,", ",")) / RECORD)
            if data["pid"] == pid and (proc / str(pid)).stat().st_uid == owner and is_name(data["name"]):
                return str(data["name"])
    return ""


def is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def read_record(path: Path) -> tuple[Any, int]:
    """(the JSON data in the regular file `path`, its owner's uid). OSError or ValueError for anything else."""
    # Opening a FIFO must not block, and a symbolic link must not be followed.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(handle, encoding="utf-8") as stream:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode) or info.st_size > RECORD_BYTES:
            raise ValueError(f"{path} is not a machine's record")
        return json.loads(stream.read(RECORD_BYTES)), info.st_uid


def identify(names: list[str]) -> list[Port]:
    """The ports `names`, with the processes that have them open."""
    if not names:
        return []
    pids = holders_of_taps()
    found = []
    for name in names:
        pid = pids.get(name)
        found.append(Port(name) if pid is None else Port(name, pid, holders.command(pid), machine_name(pid)))
    return found
