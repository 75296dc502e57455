"""Changes to a host that can be undone: files, and lines in existing files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.host import entries

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to root")


def apply(change: dict[str, Any], manifest: list[dict[str, Any]]) -> bool:
    """Make a change as the module does; return whether anything had to be done."""
    if entries.is_made(change, manifest):
        return False
    before = list(manifest)
    manifest += entries.entries(change, manifest)
    entries.make(change, before)
    return True


def take_back(manifest: list[dict[str, Any]]) -> list[str]:
    for entry in entries.undoable(manifest):
        if entries.is_there(entry, manifest):
            entries.undo(entry)
    return entries.kept(manifest)


def line(path: Path, text: str) -> dict[str, Any]:
    return {"kind": "line", "name": str(path), "line": text, "mode": "0640"}


def whole(path: Path, text: str) -> dict[str, Any]:
    return {"kind": "file", "name": str(path), "content": text, "mode": "0755"}


@pytest.mark.parametrize("content", ["allow a\n", "allow a", "", "\n\n# x\r\nallow b\n", "allow a\nallow a\n"])
def test_a_line_is_added_and_removed_without_a_trace(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bridge.conf"
    path.write_text(content, newline="")
    path.chmod(0o604)
    manifest: list[dict[str, Any]] = []
    assert apply(line(path, "allow ours0"), manifest)
    assert "allow ours0" in path.read_text().splitlines()
    assert not apply(line(path, "allow ours0"), manifest)
    assert take_back(manifest) == []
    assert path.read_bytes() == content.encode()
    assert path.stat().st_mode & 0o7777 == 0o604


def test_a_line_that_was_there_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "bridge.conf"
    path.write_text("allow ours0\n")
    manifest: list[dict[str, Any]] = []
    assert not apply(line(path, "allow ours0"), manifest)
    take_back(manifest)
    assert path.read_text() == "allow ours0\n"


def test_a_new_line_replaces_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "bridge.conf"
    path.write_text("allow theirs0\n")
    manifest: list[dict[str, Any]] = []
    apply(line(path, "allow old0"), manifest)
    apply(line(path, "allow new0"), manifest)
    assert path.read_text() == "allow new0\nallow theirs0\n"
    take_back(manifest)
    assert path.read_text() == "allow theirs0\n"


def test_a_file_made_for_a_line_is_removed_with_it(tmp_path: Path) -> None:
    path = tmp_path / "bridge.conf"
    manifest: list[dict[str, Any]] = []
    apply(line(path, "allow old0"), manifest)
    apply(line(path, "allow new0"), manifest)
    assert path.read_text() == "allow new0\n"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert take_back(manifest) == []
    assert not path.exists()


def test_a_file_made_for_a_line_stays_with_the_lines_of_others(tmp_path: Path) -> None:
    path = tmp_path / "bridge.conf"
    manifest: list[dict[str, Any]] = []
    apply(line(path, "allow ours0"), manifest)
    path.write_text(path.read_text() + "allow theirs0\n")
    assert take_back(manifest) == [str(path)]
    assert path.read_text() == "allow theirs0\n"


def test_a_whole_file_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "qemu-ifup"
    manifest: list[dict[str, Any]] = []
    assert apply(whole(path, "one\n"), manifest)
    assert apply(whole(path, "two\n"), manifest)
    assert not apply(whole(path, "two\n"), manifest)
    assert (path.read_text(), path.stat().st_mode & 0o7777) == ("two\n", 0o755)
    assert take_back(manifest) == []
    assert not path.exists()


def test_a_file_that_somebody_changed_stays(tmp_path: Path) -> None:
    path = tmp_path / "qemu-ifup"
    manifest: list[dict[str, Any]] = []
    apply(whole(path, "ours\n"), manifest)
    path.write_text("theirs\n")
    assert take_back(manifest) == [str(path)]
    assert path.read_text() == "theirs\n"


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "qemu-ifup"
    path.write_text("theirs\n")
    with pytest.raises(ValueError, match="exists and isn't rumplab's"):
        apply(whole(path, "ours\n"), [])
    assert path.read_text() == "theirs\n"
