"""Makes recordings of the demo for tests."""

from __future__ import annotations

import json
from pathlib import Path

from support.labfixture import LabPrefix

from rumplab.recording import record
from rumplab.recording.record import Recording

# isa-debug-exit turns the 0x10 that pcihello writes into 2 * 0x10 + 1.
DONE = 33


def recorded(lab: LabPrefix, program: Path, *arguments: str | Path, code: int = DONE) -> Recording:
    """Records a run of `program` in the foreground, up to its end."""
    result = lab.tool("run", program, "--exit-device", *arguments, "--record")
    assert result.returncode == code, result.stderr
    return newest(lab)


def newest(lab: LabPrefix) -> Recording:
    listed = lab.tool("recording", "ls", "--json")
    assert listed.returncode == 0, listed.stderr
    return record.read(Path(max(json.loads(listed.stdout), key=lambda one: one["created"])["directory"]))
