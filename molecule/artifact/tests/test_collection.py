"""Role artifact from the collection that is built from this checkout and installed elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from fixtures.upstream.driving import Lab, Play, Rows
from support import collection


def test_the_roles_run_from_the_installed_collection(tmp_path: Path, lab: Lab, rows: Rows) -> None:
    installed = collection.install(tmp_path)
    play = Play(tmp_path, installed=installed)
    row = rows("collected", edits=rows.edit("fine"))
    first = play(row)
    assert first.status == 0, first.output
    assert lab.hello("collected") == "fine morning"
    assert lab.descriptor("collected")["state"] == "installed"
    used = re.findall(r"Using module file (\S+/artifact\.py)", first.output)
    place = collection.place(installed)
    assert set(used) == {f"{place}/plugins/modules/artifact.py"}
    # Role host_packages installs packages; role artifact finds it in the same collection.
    assert f"included: {place}/roles/artifact/tasks/build.yml" in first.output
    assert f"task path: {place}/roles/host_packages/tasks/main.yml:" in first.output
    assert "changed=0 " in play(row).output
