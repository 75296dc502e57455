"""tests/upstream/anchors.py on miniature checkouts: anchors that match, anchors that don't, and no role is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream import make_gorump, make_rumprun
from unit.roles.test_gdb_edit import AFTER, BEFORE, NEW, OLD
from upstream import anchors
from upstream.anchors import MATCHED, MISSING, NOT_MATCHED


@pytest.fixture
def checkouts(tmp_path: Path) -> Path:
    """Make a directory of checkouts as the script expects it."""
    make_gorump.write_trees(tmp_path / "gorump")
    for version, statement in (("7.11", OLD), ("13.1", NEW)):
        (tmp_path / f"gdb-{version}/gdb").mkdir(parents=True)
        (tmp_path / f"gdb-{version}/gdb/remote.c").write_text(BEFORE + statement + AFTER)
    make_rumprun.write_parent(tmp_path / "rumprun", anchors.ROOT / "examples")
    for name in make_rumprun.SUBMODULES:
        shutil.copytree(make_rumprun.HERE / name, tmp_path / "rumprun" / name)
    return tmp_path


def results(directory: Path) -> dict[tuple[str, str, str], str]:
    """Return the results by checkout, edit and file."""
    rows = anchors.rows_of(directory, anchors.roles_with_edits())
    return {(row.checkout, row.edit, row.file): row.result for row in rows}


def test_every_edit_fits_the_miniatures(checkouts: Path) -> None:
    found = results(checkouts)
    assert set(found.values()) == {MATCHED}
    assert {(checkout, Path(file).name) for checkout, _, file in found} >= {
        ("gdb-7.11", "remote.c"),
        ("gdb-13.1", "remote.c"),
        ("gorump", "string1.go"),
        ("gorump", "malloc.go"),
        # A file that is changed, one that is created, one that gets lines at its end.
        ("rumprun", "rumprun-bake.conf"),
        ("rumprun", "bio.h"),
        ("rumprun", "PCI.ioconf"),
    }


def test_nothing_in_the_checkouts_changes(checkouts: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in checkouts.rglob("*") if path.is_file()}

    before = content()
    results(checkouts)
    assert content() == before


def test_a_file_that_changed_and_one_that_is_gone_are_reported(checkouts: Path) -> None:
    moved = checkouts / "gorump/go1.5/src/runtime/string1.go"
    moved.write_text(make_gorump.moved(moved.read_text()))
    (checkouts / "gorump/1.7/go/src/runtime/malloc.go").unlink()
    (checkouts / "rumprun/src-netbsd/sys/rump/dev/lib/libpci_scsi").mkdir()
    (checkouts / "rumprun/src-netbsd/sys/rump/dev/lib/libpci_scsi/Makefile").touch()
    found = results(checkouts)
    assert found["gorump", "findnull", "go1.5/src/runtime/string1.go"] == NOT_MATCHED
    assert found["gorump", "heap bits", "1.7/go/src/runtime/malloc.go"] == MISSING
    assert [file for (_, _, file), result in found.items() if result == NOT_MATCHED and "libpci_scsi" in file]
    assert list(found.values()).count(MATCHED) == len(found) - 3


def test_a_text_that_a_recipe_relies_on_is_searched_for(checkouts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """buildrump.sh finds the host's compiler in another way, and the header with a disk's minors is gone."""
    script = checkouts / "rumprun/buildrump.sh/buildrump.sh"
    script.write_text(script.read_text().replace("type $HOST_CC", 'type "$HOST_CC"'))
    (checkouts / "rumprun/src-netbsd/sys/arch/x86/include/disklabel.h").unlink()
    assert anchors.main([str(checkouts)]) == 1
    said = capsys.readouterr().out
    assert "'the host's compiler is HOST_CC, in words' isn't in buildrump.sh/buildrump.sh" in said
    assert "'a disk has eight minor numbers' is looked for in src-netbsd/sys/arch/x86/include/disklabel.h" in said


def test_edits_of_one_file_are_applied_on_top_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    edits = [
        {"name": name, "file": "f", "anchor": name, "replacement": then}
        for name, then in (("one", "two"), ("two", "three"), ("one", "four"))
    ]
    tried = [result for _, result, _ in anchors.try_edits(edits, tmp_path)]
    assert tried == [MATCHED, MATCHED, NOT_MATCHED]


def test_a_checkout_that_is_missing_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert anchors.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert f"there is no {tmp_path / 'gorump'}" in said and "gdb-*" in said


def test_json_has_a_row_for_each_edit(checkouts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anchors.main([str(checkouts), "--json"])
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert {"role", "checkout", "edit", "file", "result", "reason"} == set(rows[0])
    assert len(rows) > 6
    edits = {row["edit"] for row in rows if row["role"] == "go_builder" and row["edit"][:2] not in ("go", "1.")}
    assert edits == {"findnull", "heap bits"}


def test_a_usage_error_and_edits_that_do_not_match_have_different_statuses(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        anchors.main([str(tmp_path / "absent")])
    assert ended.value.code == 2


def test_no_role_with_edits_is_left_out() -> None:
    tasks = {path.parent.parent.name: path.read_text() for path in (anchors.ROOT / "roles").glob("*/tasks/main.yml")}
    edited = {role for role, text in tasks.items() if f"__{role}_edits" in text}
    assert edited == set(anchors.roles_with_edits())
    assert edited <= set(anchors.UPSTREAMS)
