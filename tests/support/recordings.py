"""Makes recordings of the demo for tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from support.labfixture import LabPrefix

from rumplab.machine.nics import Nic
from rumplab.machine.qemu_argv import Spec
from rumplab.recording import hardware, record
from rumplab.recording.record import Part, Recording
from rumplab.recording.store import Recordings

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
    directory = Path(max(json.loads(listed.stdout), key=lambda one: one["created"])["directory"])
    return Recordings(directory.parent).read(directory)


def unrecorded(directory: Path, program: bytes) -> Recording:
    """Writes the record of a run of `program` that has not begun, in `directory`."""
    (directory / "app.bin").write_bytes(program)
    spec = Spec("/q", "tcg", program="app.bin", vga=False, nics=(Nic("virtio"),))
    made = Recording(
        directory=directory,
        machine="app",
        created=0,
        emulator="/q",
        version="QEMU emulator version 0",
        firmware="",
        argv=("/q",),
        hardware=hardware.describe(spec, ports=1),
        parts=(Part("app.bin", hashlib.sha256(program).hexdigest(), "/there/app.bin"),),
        symbols="app.bin",
    )
    record.write(made)
    return made
