"""The cache of built trees: storing and restoring a tree, and which files are trusted."""

from __future__ import annotations

import contextlib
import itertools
import os
import tarfile
import threading
from pathlib import Path

import pytest
from fixtures.upstream.support import NOBODY, OTHER, STAMP
from support.staging import needs_root

from plugins.module_utils.artifact import built
from plugins.module_utils.artifact.errors import Broken

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
    with pytest.raises(Broken, match=f"hello-{STAMP}.tar may have been written by another user"):
        built.restore(str(cache), "hello", STAMP, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@needs_root
def test_what_belongs_to_somebody_else_is_refused(cache: Path, tmp_path: Path) -> None:
    os.chown(cache / f"hello-{STAMP}.tar", NOBODY.pw_uid, -1)
    with pytest.raises(Broken, match="another user"):
        built.restore(str(cache), "hello", STAMP, str(tmp_path / "back"))


def test_the_error_for_a_corrupted_file_names_it(cache: Path, tmp_path: Path) -> None:
    path = cache / f"hello-{STAMP}.tar"
    path.write_bytes(b"rotten" + path.read_bytes()[6:])
    with pytest.raises(Broken, match=f"(?s)hello-{STAMP}.tar can't be unpacked.*remove it"):
        built.restore(str(cache), "hello", STAMP, str(tmp_path / "back"))


@needs_root
def test_a_cache_that_is_full_leaves_nothing_half_made(small: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(os.urandom(8 << 20))
    with pytest.raises(OSError, match="No space left"):
        built.keep(str(small), "hello", STAMP, str(tmp_path / "tree"))
    assert os.listdir(small) == []


@needs_root
def test_no_link_and_no_second_name_stands_for_a_tree(cache: Path, tmp_path: Path) -> None:
    os.symlink(f"hello-{STAMP}.tar", cache / f"hello-{OTHER}.tar")
    with pytest.raises(Broken, match=f"hello-{OTHER}.tar can't be opened as a file"):
        built.restore(str(cache), "hello", OTHER, str(tmp_path / "back"))
    (cache / f"hello-{OTHER}.tar").unlink()
    os.link(cache / f"hello-{STAMP}.tar", cache / f"hello-{OTHER}.tar")
    with pytest.raises(Broken, match=f"hello-{OTHER}.tar has more than one hard link"):
        built.restore(str(cache), "hello", OTHER, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_a_tree_under_the_name_of_another_is_built_anew(cache: Path, tmp_path: Path) -> None:
    os.rename(cache / f"hello-{STAMP}.tar", cache / f"hello-{OTHER}.tar")
    assert not built.has(str(cache), "hello", OTHER)
    assert not built.restore(str(cache), "hello", OTHER, str(tmp_path / "back"))
    # An archive without name and stamp isn't used, either.
    with tarfile.open(cache / f"hello-{STAMP}.tar", "w") as archive:
        archive.add(tmp_path / "tree", arcname=".")
    assert not built.has(str(cache), "hello", STAMP)
    built.keep(str(cache), "hello", STAMP, str(tmp_path / "tree"))
    assert built.has(str(cache), "hello", STAMP)


@needs_root
@pytest.mark.parametrize(("mode", "owner", "trusted"), [(0o1777, 0, True), (0o777, 0, False), (0o755, 1, False)])
def test_a_directory_in_which_others_can_exchange_files_is_refused(
    cache: Path, tmp_path: Path, mode: int, owner: int, trusted: bool
) -> None:
    cache.chmod(mode)
    os.chown(cache, owner, -1)
    if trusted:
        assert built.restore(str(cache), "hello", STAMP, str(tmp_path / "back"))
        return
    with pytest.raises(Broken, match="another user"):
        built.restore(str(cache), "hello", STAMP, str(tmp_path / "back"))


@needs_root
def test_a_file_that_is_exchanged_meanwhile_is_never_taken(cache: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.tar"
    (tmp_path / "elsewhere/bin").mkdir(parents=True)
    (tmp_path / "elsewhere/bin/hello").write_text("evil")
    with tarfile.open(evil, "w", pax_headers={built.STAMP: f"hello {OTHER}"}, format=tarfile.PAX_FORMAT) as archive:
        archive.add(tmp_path / "elsewhere", arcname=".")
    os.chown(evil, NOBODY.pw_uid, -1)
    name, good = cache / f"hello-{OTHER}.tar", cache / f"hello-{STAMP}.tar"
    stop = threading.Event()

    def exchange() -> None:
        for target in itertools.cycle((good, evil)):
            if stop.is_set():
                return
            os.symlink(target, cache / ".link")
            os.rename(cache / ".link", name)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(300):
            with contextlib.suppress(Broken):
                assert not built.restore(str(cache), "hello", OTHER, str(tmp_path / "back"))
    finally:
        stop.set()
        thread.join(10)
    assert not (tmp_path / "back").exists()


def test_an_archive_that_a_killed_run_was_writing_is_removed(cache: Path, tmp_path: Path) -> None:
    (cache / ".new-0123").write_text("half")
    built.keep(str(cache), "hello", OTHER, str(tmp_path / "tree"))
    assert sorted(os.listdir(cache)) == sorted([f"hello-{OTHER}.tar", f"hello-{STAMP}.tar"])
