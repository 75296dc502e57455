"""Stamps and bundles of role artifact: which inputs change them and which don't."""

from __future__ import annotations

import base64
import hashlib
import io
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import NOBODY
from support.staging import needs_root

from plugins.filter import artifact_stamp
from plugins.lookup import source_bundle

PIN = {"urls": ["https://a.example/x.tar"], "sha256": "1" * 64}
GIT = {"git": "https://a.example/x.git", "commit": "2" * 40, "submodules": False}
RECIPE: dict[str, Any] = {
    "build": {"environment": {"CFLAGS": "-O2"}, "commands": [{"argv": ["make"]}]},
    "edits": [{"name": "one", "file": "f", "anchor": "a", "replacement": "b"}],
    "files": [],
    "platform": ["Debian", "12", "x86_64"],
}


def stamp(recipe: dict[str, Any] = RECIPE, pin: dict[str, Any] = PIN) -> str:
    return str(artifact_stamp.artifact_stamp(recipe, pin))


def test_a_stamp_is_a_sha256_in_hex() -> None:
    assert len(stamp()) == 64 and set(stamp()) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PIN, {**PIN, "urls": ["https://b.example/y.tar", "https://a.example/x.tar"]}),
        (GIT, {**GIT, "git": "https://b.example/moved.git"}),
        (PIN, {**PIN, "sha1": ""}),
        (PIN, {**PIN, "file": "release-1-x.tar"}),
        ({"parts": [PIN]}, {"parts": [{**PIN, "urls": ["https://b.example/y.tar"], "file": "y"}]}),
    ],
)
def test_where_a_source_comes_from_is_no_part_of_it(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert stamp(pin=one) == stamp(pin=other)


def test_stamps_are_those_of_earlier_versions() -> None:
    """If a stamp changes without a reason, every host builds its tools again."""
    assert stamp() == "4f6e1270ea5a5cd38dfc4e8df5a2e9703e40df947a5222795ae5b7f0a2ebf477"
    assert stamp(pin=GIT) == "67d1ecdc90498fdd4b24e94a981136751110c36cd567babcf11f98164b7d7be0"


def test_the_stamps_of_needed_artefacts_are_part_of_it() -> None:
    used = artifact_stamp.artifact_stamp(RECIPE, PIN, ["go_bootstrap"], {"go_bootstrap": "1", "other": "2"})
    assert used == stamp({**RECIPE, "needs": {"go_bootstrap": "1"}}) != stamp()
    assert artifact_stamp.artifact_stamp(RECIPE, PIN, [], {"other": "2"}) == stamp()


def test_the_order_of_keys_is_no_part_of_it() -> None:
    assert stamp(dict(reversed(RECIPE.items()))) == stamp()


@pytest.mark.parametrize(
    "changed",
    [
        {"edits": []},
        {"edits": [{**RECIPE["edits"][0], "replacement": "c"}]},
        {"edits": [{**RECIPE["edits"][0], "replacement": "\u00fc"}]},
        {"build": {**RECIPE["build"], "environment": {"CFLAGS": "-O3"}}},
        {"build": {**RECIPE["build"], "commands": [{"argv": ["make", "-s"]}]}},
        {"files": [{"path": "x", "content": ""}]},
        {"platform": ["Debian", "13", "x86_64"]},
        {"platform": ["Debian", "12", "aarch64"]},
        {"platform": ["Fedora", "12", "x86_64"]},
    ],
)
def test_whatever_goes_into_a_tree_is_part_of_it(changed: dict[str, Any]) -> None:
    assert stamp({**RECIPE, **changed}) != stamp()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PIN, {**PIN, "sha256": "3" * 64}),
        (GIT, {**GIT, "commit": "3" * 40}),
        (GIT, {**GIT, "submodules": True}),
        (PIN, {"apt_source": "gdb-source", "member": "usr/src/*.tar.*"}),
        ({"apt_source": "p", "member": "a"}, {"apt_source": "p", "member": "b"}),
        ({"parts": [PIN]}, PIN),
        ({"parts": [PIN, GIT]}, {"parts": [GIT, PIN]}),
        ({"parts": [PIN]}, {"parts": [{**PIN, "sha256": "3" * 64}]}),
        ({"parts": [PIN]}, {"parts": [{**PIN, "into": "below"}]}),
        ({"parts": [PIN]}, {"parts": [{**PIN, "unpack": False}]}),
    ],
)
def test_another_source_is_another_stamp(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert stamp(pin=one) != stamp(pin=other)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "src"
    (made / "package").mkdir(parents=True)
    for name in ("zebra.c", "apple.c", "package/module.py"):
        (made / name).write_text(name)
    (made / "run").write_text("#!/bin/sh\n")
    (made / "run").chmod(0o755)
    return made


def bundle(directory: Path) -> dict[str, str]:
    made: dict[str, str] = source_bundle.make_bundle(str(directory))
    return made


def test_a_bundle_holds_the_files_and_their_hash(source: Path) -> None:
    made = bundle(source)
    content = lzma.decompress(base64.b64decode(made["data"]))
    assert made["bundle"] == "src"
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        modes = {member.name: member.mode for member in archive}
        extracted = archive.extractfile("package/module.py")
        assert extracted is not None and extracted.read() == b"package/module.py"
    assert modes == {"apple.c": 0o644, "package/module.py": 0o644, "run": 0o755, "zebra.c": 0o644}
    assert list(modes) == sorted(modes)


@needs_root
def test_a_bundle_is_the_same_whoever_makes_it_and_whenever(source: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "src"
    (again / "package").mkdir(parents=True)
    for path in sorted((path for path in source.rglob("*") if path.is_file()), reverse=True):
        copied = again / path.relative_to(source)
        copied.write_bytes(path.read_bytes())
        copied.chmod(0o700 if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else 0o600)
        os.utime(copied, (1, 1))
        os.chown(copied, NOBODY.pw_uid, NOBODY.pw_gid)
    assert bundle(again) == bundle(source)


def test_files_of_builds_and_editors_are_no_part_of_a_bundle(source: Path) -> None:
    before = bundle(source)
    (source / "package/__pycache__").mkdir()
    (source / ".git").mkdir()
    for name in ("a.o", "b.pyc", "c~", ".d.swp", "package/__pycache__/e", ".git/f"):
        (source / name).write_text("left over")
    assert bundle(source) == before


@pytest.mark.parametrize("change", ["content", "name", "mode"])
def test_any_change_of_a_file_is_another_bundle(source: Path, change: str) -> None:
    before = bundle(source)["sha256"]
    if change == "content":
        (source / "apple.c").write_text("other")
    elif change == "name":
        (source / "apple.c").rename(source / "pear.c")
    else:
        (source / "apple.c").chmod(0o755)
    assert bundle(source)["sha256"] != before
