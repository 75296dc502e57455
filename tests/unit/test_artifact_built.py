"""The cache of built trees: round trip, and whose files are trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fixtures.upstream.support import NOBODY, OTHER, STAMP
from staging import needs_root

from roles.artifact.module_utils.rumplab_artifact import built
from roles.artifact.module_utils.rumplab_artifact.errors import Broken

pytest_plugins = ["fixtures.upstream.served"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that holds one tree."""
    tree, kept = tmp_path / "tree", tmp_path / "cache"
    (tree / "bin").mkdir(parents=True)
    kept.mkdir()
    (tree / "bin/hello").write_text("#!/bin/sh\n")
    (tree / "bin/hello").chmod(0o755)
    (tree / "bin/hi").symlink_to("hello")
    built.keep(str(kept), "hello", STAMP, str(tree))
    return kept


def test_a_tree_comes_back_as_it_was(cache: Path, tmp_path: Path) -> None:
    assert os.listdir(cache) == [f"hello-{STAMP}.tar"]
    back = tmp_path / "back"
    assert built.restore(str(cache), "hello", STAMP, str(back))
    assert os.readlink(back / "bin/hi") == "hello"
    assert (back / "bin/hello").stat().st_mode & 0o777 == 0o755
    assert (back / "bin/hello").read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize(("name", "stamp"), [("hello", OTHER), ("world", STAMP)])
def test_another_name_or_stamp_is_not_in_it(cache: Path, tmp_path: Path, name: str, stamp: str) -> None:
    assert not built.restore(str(cache), name, stamp, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_no_cache_keeps_and_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    built.keep("", "hello", STAMP, str(tmp_path / "tree"))
    built.keep(str(tmp_path / "none"), "hello", STAMP, str(tmp_path / "tree"))
    assert not built.restore("", "hello", STAMP, str(tmp_path / "back"))
    assert os.listdir(tmp_path) == ["tree"]


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_what_others_could_have_changed_is_refused(cache: Path, tmp_path: Path, mode: int) -> None:
    (cache / f"hello-{STAMP}.tar").chmod(mode)
    with pytest.raises(Broken, match=f"hello-{STAMP}.tar was written by somebody else"):
        built.restore(str(cache), "hello", STAMP, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@needs_root
def test_what_belongs_to_somebody_else_is_refused(cache: Path, tmp_path: Path) -> None:
    os.chown(cache / f"hello-{STAMP}.tar", NOBODY.pw_uid, -1)
    with pytest.raises(Broken, match="somebody else"):
        built.restore(str(cache), "hello", STAMP, str(tmp_path / "back"))


def test_a_file_that_rotted_is_named(cache: Path, tmp_path: Path) -> None:
    path = cache / f"hello-{STAMP}.tar"
    path.write_bytes(b"rotten" + path.read_bytes()[6:])
    with pytest.raises(Broken, match=f"(?s)hello-{STAMP}.tar can't be unpacked.*Remove it"):
        built.restore(str(cache), "hello", STAMP, str(tmp_path / "back"))


@needs_root
def test_a_cache_that_is_full_leaves_nothing_half_made(small: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(os.urandom(8 << 20))
    with pytest.raises(OSError, match="No space left"):
        built.keep(str(small), "hello", STAMP, str(tmp_path / "tree"))
    assert os.listdir(small) == []
