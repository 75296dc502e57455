"""Role artifact out of the collection, built from this checkout and installed elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import collection
from fixtures.upstream.driving import Lab, Play, Rows


def test_the_roles_run_from_the_installed_collection(tmp_path: Path, lab: Lab, rows: Rows) -> None:
    installed = collection.install(tmp_path)
    play = Play(tmp_path, installed=installed)
    # Packages are role lab's business, which role artifact finds beside it.
    row = rows("collected", packages=["make"], edits=rows.edit("fine"))
    first = play(row)
    assert first.status == 0, first.output
    assert lab.hello("collected") == "fine morning"
    assert lab.descriptor("collected")["state"] == "installed"
    used = re.findall(r"Using module file (\S+/rumplab/\S+)", first.output)
    assert {Path(file).name for file in used} >= {"artifact.py", "manifest.py"}
    assert not [file for file in used if not file.startswith(f"{collection.place(installed)}/plugins/modules/")]
    assert "changed=0 " in play(row).output
