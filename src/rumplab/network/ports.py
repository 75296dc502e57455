"""Who is attached to the bridge: the process, and where it is one of the lab's machines, its name."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

IFF = re.compile(r"^iff:\s*(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Port:
    """An interface on the bridge. `pid` is None when no process that we may look at holds it."""

    name: str
    pid: int | None = None
    command: str = ""
    machine: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return self.name
        who = f"machine '{self.machine}'" if self.machine else self.command
        return f"{self.name} ({who}, pid {self.pid})"


def holders(proc: Path = Path("/proc")) -> dict[str, int]:
    """Tap name → pid, by the open files of every process that may be looked at."""
    found = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            for descriptor in (entry / "fd").iterdir():
                if Path(os.readlink(descriptor)) != Path("/dev/net/tun"):
                    continue
                match = IFF.search((entry / "fdinfo" / descriptor.name).read_text(encoding="utf-8"))
                if match:
                    found[match[1]] = int(entry.name)
        except OSError:
            continue
    return found


def machine_names(machines: Path) -> dict[int, str]:
    """Pid → name of the machines of every user whose records may be read."""
    names = {}
    for path in machines.glob("*/*/machine.json"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            names[int(data["pid"])] = str(data["name"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return names


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process"


def identify(names: list[str], machines: Path) -> list[Port]:
    """The ports called `names`, with whoever holds them."""
    if not names:
        return []
    pids, known = holders(), machine_names(machines)
    found = []
    for name in names:
        pid = pids.get(name)
        found.append(Port(name) if pid is None else Port(name, pid, command(pid), known.get(pid, "")))
    return found
