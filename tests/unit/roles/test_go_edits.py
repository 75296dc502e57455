"""The edits of gorump: where they match, the text that they don't change, and the effect of the bounded findnull()."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.findnull import BOUNDED, HARNESS, UPSTREAMS, of_main
from upstream.anchors import Broken, edits, edits_of

edit_text = edits.edit_text
RUNTIME = Path(__file__).resolve().parents[2] / "fixtures/upstream/gorump/go1.5/src/runtime"
STRING1, MALLOC = (RUNTIME / "string1.go").read_text(), (RUNTIME / "malloc.go").read_text()
LOOP = "for p[l] != 0 {"


def edit(name: str, **settings: Any) -> dict[str, Any]:
    """Return one of the role's edits."""
    (found,) = [one for one in edits_of("go_builder", settings) if one["name"] == name]
    return found


FINDNULL = edit("findnull")
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="no go")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build cache of the host's Go, shared by the tests."""
    return tmp_path_factory.mktemp("cache")


def run_harness(directory: Path, cache: Path, string1: str) -> list[str]:
    """Compile the runtime's file with the harness, run it, and return its lines."""
    (directory / "string1.go").write_text(of_main(string1))
    (directory / "harness.go").write_text(HARNESS)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "GOCACHE": str(cache),
        "GO111MODULE": "off",
    }
    argv = ["go", "run", "string1.go", "harness.go"]
    done = subprocess.run(argv, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@needs_go
def test_findnull_as_upstream_has_it_panics_where_there_is_no_null(tmp_path: Path, cache: Path) -> None:
    assert run_harness(tmp_path, cache, STRING1) == UPSTREAMS


@needs_go
def test_the_edited_findnull_returns_0_there_and_otherwise_the_same_as_before(tmp_path: Path, cache: Path) -> None:
    edited = edit_text(STRING1, FINDNULL, FINDNULL["file"])
    assert run_harness(tmp_path, cache, edited) == BOUNDED


def test_the_edit_changes_only_findnull() -> None:
    edited = edit_text(STRING1, FINDNULL, FINDNULL["file"])
    cut = STRING1.index(LOOP)
    end = STRING1.index("\treturn l\n")
    bounded = "for l < len(p) && p[l] != 0 {\n\t\tl++\n\t}\n\tif l == len(p) {\n\t\treturn 0\n\t}\n"
    assert edited == STRING1[:cut] + bounded + STRING1[end:]
    assert LOOP in edited[edited.index("func findnullw(") :]


def without_loop(text: str) -> str:
    return text.replace(LOOP, "for ; p[l] != 0; {", 1)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (without_loop(STRING1), 0),
        (edit_text(STRING1, FINDNULL, ""), 0),
        (STRING1.replace("func findnull(s *byte) int {", "func findnull(s *byte) (n int) {"), 0),
        (STRING1.replace("findnull(", "zero("), 0),
        (STRING1 + STRING1, 2),
    ],
    ids=["another loop", "edited already", "another signature", "no findnull", "twice"],
)
def test_a_source_that_the_edit_does_not_match_is_refused(text: str, times: int) -> None:
    with pytest.raises(Broken, match=rf"'findnull'.*{re.escape(FINDNULL['file'])}.*{times} times"):
        edit_text(text, FINDNULL, FINDNULL["file"])


@pytest.mark.parametrize("text", [STRING1.replace("\t", "    "), STRING1.replace("l++\n", "l++\n\n")])
def test_the_anchor_matches_whatever_the_white_space(text: str) -> None:
    assert "l < len(p)" in edit_text(text, FINDNULL, "")


@pytest.mark.parametrize(("version", "tree"), [("1.5", "go1.5"), ("1.7", "1.7/go")])
def test_each_tree_has_its_own_files(version: str, tree: str) -> None:
    found = edits_of("go_builder", {"go_builder_version": version, "go_builder_heap_bits": 25})
    assert [one["file"] for one in found] == [f"{tree}/src/runtime/string1.go", f"{tree}/src/runtime/malloc.go"]


def test_an_edit_that_is_not_requested_is_not_made() -> None:
    assert edits_of("go_builder", {"go_builder_edits": []}) == []
    assert [one["name"] for one in edits_of("go_builder")] == ["findnull"]


@pytest.mark.parametrize("variable", ["goos_rumprun", "sys.GoosRumprun"])
def test_the_heap_bits_of_rump_kernels_change_and_no_others(variable: str) -> None:
    bits = edit("heap bits", go_builder_heap_bits=25)
    text = MALLOC.replace("goos_rumprun", variable)
    assert edit_text(text, bits, "") == text.replace(f"23*{variable}", f"25*{variable}")


def test_a_formula_without_rump_kernels_is_refused() -> None:
    bits = edit("heap bits", go_builder_heap_bits=25)
    with pytest.raises(Broken, match=r"'heap bits'.*malloc\.go.*0 times"):
        edit_text(MALLOC.replace(" + 23*goos_rumprun", ""), bits, bits["file"])
