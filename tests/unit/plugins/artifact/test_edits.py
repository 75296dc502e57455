"""Source edits of role artifact: each matches exactly once and changes nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream import support
from support.staging import needs_root

from plugins.module_utils.artifact.edits import apply_edits, edit_text, edited
from plugins.module_utils.artifact.errors import Broken
from plugins.module_utils.artifact.privilege import as_user

pytest_plugins = ["fixtures.upstream.served"]
TEXT = "int f() { a; }\nint g() { a; b; }\n"


def edit(anchor: str, replacement: str = "new", file: str = "code.c") -> dict[str, Any]:
    return {"name": "bounds", "file": file, "anchor": anchor, "replacement": replacement}


def test_one_match_is_replaced() -> None:
    assert edit_text(TEXT, edit("b;", "c;"), "code.c") == TEXT.replace("b;", "c;")


def test_groups_of_the_anchor_are_filled_in() -> None:
    assert edit_text(TEXT, edit(r"^int (g)\(\)", r"long \g<1>()"), "code.c").endswith("long g() { a; b; }\n")


def test_anchors_span_lines() -> None:
    assert edit_text(TEXT, edit(r"a; \}.*b;", "-"), "code.c") == "int f() { - }\n"


@pytest.mark.parametrize(("anchor", "count"), [("nothing", "0 times (nowhere)"), ("a;", "2 times (1, 2)")])
def test_any_other_number_of_matches_names_edit_file_count_and_lines(anchor: str, count: str) -> None:
    with pytest.raises(Broken) as caught:
        edit_text(TEXT, edit(anchor), "src/code.c")
    for part in ("'bounds'", "src/code.c", count, f"The anchor is: {anchor}"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("anchor", "replacement"), [("(", ""), ("b;", r"\g<3>"), ("b;", "\\q")])
def test_a_wrong_expression_or_replacement_names_the_edit(anchor: str, replacement: str) -> None:
    with pytest.raises(Broken, match="'bounds'"):
        edit_text(TEXT, edit(anchor, replacement), "code.c")


def test_bytes_that_are_not_utf8_and_line_ends_stay(tmp_path: Path) -> None:
    (tmp_path / "code.c").write_bytes(b"\xe9\xff\r\nold\n\x00\r")
    apply_edits(str(tmp_path), [edit("old", "n\u00e9w")])
    assert (tmp_path / "code.c").read_bytes() == b"\xe9\xff\r\nn\xc3\xa9w\n\x00\r"


def test_edits_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "code.c").write_text("one")
    apply_edits(str(tmp_path), [edit("one", "two"), edit("two", "three")])
    assert (tmp_path / "code.c").read_text() == "three"


@needs_root
def test_a_read_only_file_is_edited_and_stays_read_only(public: Path) -> None:
    code = public / "code.c"
    code.write_text("old")
    code.chmod(0o444)
    os.chown(code, support.NOBODY.pw_uid, -1)

    def work() -> dict[str, Any]:
        apply_edits(str(public), [edit("old")])
        return {"changed": True}

    assert as_user("nobody", work) == {"changed": True}
    assert code.read_text() == "new"
    assert code.stat().st_mode & 0o777 == 0o444


def test_a_file_that_the_source_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"'bounds' changes code\.c, which this source doesn't have"):
        apply_edits(str(tmp_path), [edit("x")])


@pytest.mark.parametrize("file", ["../outside", "/etc/hostname", "link", "."])
def test_nothing_outside_the_source_is_touched(tmp_path: Path, file: str) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    source.mkdir()
    outside.write_text("old")
    (source / "link").symlink_to(outside)
    with pytest.raises(Broken, match="outside the source"):
        apply_edits(str(source), [edit("old", file=file)])
    assert outside.read_text() == "old"


def append(text: str, **more: str) -> dict[str, Any]:
    return {"name": "more", "file": "code.c", "append": text, **more}


def test_text_is_added_after_the_last_line(tmp_path: Path) -> None:
    for before, after in ((b"one\n", b"one\n"), (b"one", b"one\n"), (b"", b""), (b"\xe9\n", b"\xe9\n")):
        (tmp_path / "code.c").write_bytes(before)
        apply_edits(str(tmp_path), [append("two\n")])
        assert (tmp_path / "code.c").read_bytes() == after + b"two\n"


def test_text_that_is_there_by_now_is_not_added_again(tmp_path: Path) -> None:
    (tmp_path / "code.c").write_text("one\n  two\n")
    with pytest.raises(Broken) as caught:
        apply_edits(str(tmp_path), [append("two\n", absent=r"^\s*two$")])
    for part in ("'more'", "code.c", "already has (2)", r"^\s*two$"):
        assert part in str(caught.value)
    assert (tmp_path / "code.c").read_text() == "one\n  two\n"


def test_a_file_is_created_with_the_directories_that_it_needs(tmp_path: Path) -> None:
    apply_edits(str(tmp_path), [{"name": "new", "file": "lib/sub/new.h", "create": "#define NEW\n"}])
    assert (tmp_path / "lib/sub/new.h").read_text() == "#define NEW\n"
    assert (tmp_path / "lib/sub/new.h").stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_there_is_not_created(tmp_path: Path) -> None:
    (tmp_path / "code.c").write_text("theirs")
    with pytest.raises(Broken, match=r"'new' creates code\.c, which this source already has"):
        apply_edits(str(tmp_path), [{"name": "new", "file": "code.c", "create": ""}])
    assert (tmp_path / "code.c").read_text() == "theirs"


def test_no_file_is_created_outside_the_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "link").symlink_to(tmp_path)
    for file in ("../new", "link/new"):
        with pytest.raises(Broken, match="outside the source"):
            apply_edits(str(source), [{"name": "new", "file": file, "create": "x"}])
    assert os.listdir(tmp_path) == ["source"]


def test_nothing_is_appended_to_a_file_that_the_source_lacks(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"'more' changes code\.c, which this source doesn't have"):
        apply_edits(str(tmp_path), [append("x")])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("more", [{}, {"append": "x", "create": "x"}, {"anchor": "x"}])
def test_an_edit_does_one_thing(more: dict[str, str]) -> None:
    with pytest.raises(Broken, match="'odd' must have one of replacement, append, create"):
        edited("text", {"name": "odd", "file": "f", **more}, "f")
