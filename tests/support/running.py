"""Start machines in a lab of the host's tools, and wait for them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from support.labfixture import LabPrefix

from rumplab.host import process

DONE = "pcihello: done"


def detach(lab: LabPrefix, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return lab.tool("run", "--detach", "--accel", "tcg", *arguments)


def started(lab: LabPrefix, *arguments: str | Path) -> dict[str, Any]:
    """Start a machine, and return its record."""
    result = detach(lab, *arguments)
    assert result.returncode == 0, result.stderr
    newest: dict[str, Any] = max(lab.machines(), key=lambda machine: machine["since"])
    return newest


def until(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {seconds} s"
        time.sleep(0.05)


def gone(machine: dict[str, Any]) -> bool:
    return not process.alive(machine["pid"], machine["token"])


def image(lab: LabPrefix, program: Path, path: Path) -> Path:
    result = lab.tool("stage", program, "-o", path)
    assert result.returncode == 0, result.stderr
    return path
