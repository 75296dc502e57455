"""The store of role artifact: trees, links, generations, descriptors."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import NOBODY
from support.staging import needs_root

from plugins.module_utils.artifact.errors import Broken
from plugins.module_utils.artifact.privilege import as_user
from plugins.module_utils.artifact.store import Store, remove_tree

pytest_plugins = ["fixtures.upstream.served"]
STAMPS = [digit * 64 for digit in "abcdef"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "prefix"))
    made.ready()
    return made


def adopt(store: Store, name: str, version: str, stamp: str) -> str:
    made = os.path.join(store.work, "made")
    os.makedirs(os.path.join(made, "bin"))
    Path(made, ".provenance.json").write_text("{}")
    tree = store.tree(name, version, stamp)
    store.adopt(made, tree, stamp)
    return tree


def use(store: Store, name: str, stamp: str) -> str:
    tree = store.find(name, stamp) or adopt(store, name, "1.0", stamp)
    store.switch(name, tree)
    # Generations are ordered by time stamp, so two must differ.
    time.sleep(0.01)
    return tree


def test_an_adopted_tree_is_complete_and_found(store: Store) -> None:
    tree = adopt(store, "hello", "1.0", STAMPS[0])
    assert os.path.basename(tree) == "hello-1.0-" + "a" * 12
    assert store.find("hello", STAMPS[0]) == tree
    assert store.stamp_of(tree) == STAMPS[0]
    assert os.listdir(store.trees) == [os.path.basename(tree)]
    assert os.listdir(store.work) == []


def test_a_tree_is_found_whatever_its_version(store: Store) -> None:
    assert store.find("hello", STAMPS[0]) is None
    assert store.find("hello", STAMPS[0]) != adopt(store, "hello", "13.1+dfsg", STAMPS[0])
    assert store.find("hello", STAMPS[0]) == store.tree("hello", "13.1+dfsg", STAMPS[0])


def test_a_tree_of_the_same_first_digits_is_another(store: Store) -> None:
    adopt(store, "hello", "1.0", STAMPS[0])
    assert store.find("hello", STAMPS[0][:12] + "0" * 52) is None


def test_an_incomplete_tree_does_not_count_and_is_replaced(store: Store) -> None:
    os.makedirs(store.tree("hello", "1.0", STAMPS[0]) + "/half")
    os.makedirs(os.path.join(store.trees, ".hello-1.0-" + "a" * 12 + ".part/half"))
    assert store.find("hello", STAMPS[0]) is None
    tree = adopt(store, "hello", "1.0", STAMPS[0])
    assert sorted(os.listdir(tree)) == [".complete", ".files.json", ".provenance.json", "bin"]


def test_a_tree_is_adopted_from_another_file_system(store: Store) -> None:
    other = Path("/dev/shm") / f"rumplab-test-{os.getpid()}"
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(store.trees).st_dev:
        pytest.skip("/dev/shm is no other file system")
    other.mkdir()
    (other / "file").write_text("x")
    (other / ".provenance.json").write_text("{}")
    (other / "link").symlink_to("file")
    try:
        tree = store.tree("hello", "1.0", STAMPS[0])
        store.adopt(str(other), tree, STAMPS[0])
    finally:
        shutil.rmtree(other, ignore_errors=True)
    assert store.find("hello", STAMPS[0]) == tree
    assert os.readlink(os.path.join(tree, "link")) == "file"


def test_the_link_is_relative_and_switching_returns_whether_it_changed(store: Store) -> None:
    tree = adopt(store, "hello", "1.0", STAMPS[0])
    assert store.current("hello") is None
    assert store.switch("hello", tree)
    assert not store.switch("hello", tree)
    assert os.readlink(os.path.join(store.prefix, "hello")) == "store/" + os.path.basename(tree)
    assert store.current("hello") == tree


def test_switching_works_over_the_files_of_a_killed_run(store: Store) -> None:
    tree = adopt(store, "hello", "1.0", STAMPS[0])
    os.symlink("nowhere", os.path.join(store.prefix, ".hello.link"))
    assert store.switch("hello", tree)
    assert not os.path.lexists(os.path.join(store.prefix, ".hello.link"))


def test_pruning_keeps_the_one_in_use_and_the_one_before(store: Store) -> None:
    trees = [use(store, "hello", stamp) for stamp in STAMPS[:4]]
    assert sorted(store.prune("hello", 2)) == sorted(trees[:2])
    assert sorted(os.listdir(store.trees)) == sorted(os.path.basename(tree) for tree in trees[2:])


def test_after_a_rollback_the_one_rolled_back_from_is_the_previous(store: Store) -> None:
    first, second, third = (use(store, "hello", stamp) for stamp in STAMPS[:3])
    use(store, "hello", STAMPS[0])
    assert store.prune("hello", 2) == [second]
    assert store.current("hello") == first
    assert store.find("hello", STAMPS[2]) == third


@pytest.mark.parametrize("keep", [0, 1])
def test_the_tree_in_use_is_never_pruned(store: Store, keep: int) -> None:
    old, current = (use(store, "hello", stamp) for stamp in STAMPS[:2])
    assert store.prune("hello", keep) == [old]
    assert store.current("hello") == current and os.path.isdir(current)


def test_pruning_removes_incomplete_trees_of_this_name_only(store: Store) -> None:
    use(store, "hello", STAMPS[0])
    half = [
        store.tree("hello", "1.0", STAMPS[1]),
        os.path.join(store.trees, ".hello-1.0-" + "c" * 12 + ".part"),
    ]
    others = [store.tree("hello_world", "1.0", STAMPS[1]), os.path.join(store.trees, "hello")]
    for directory in half + others:
        os.makedirs(directory)
    assert sorted(store.prune("hello", 5)) == sorted(half)
    assert all(os.path.isdir(directory) for directory in others)


def test_descriptors_are_written_when_they_differ(store: Store) -> None:
    assert store.descriptor("hello") is None
    assert store.describe("hello", {"name": "hello", "path": "ü"})
    assert not store.describe("hello", {"name": "hello", "path": "ü"})
    assert store.descriptor("hello") == {"name": "hello", "path": "ü"}
    path = os.path.join(store.components, "hello.json")
    assert os.stat(path).st_mode & 0o777 == 0o644
    Path(path).write_text("{")
    assert store.descriptor("hello") is None
    assert os.listdir(store.components) == ["hello.json"]


@needs_root
def test_read_only_directories_can_be_removed(public: Path) -> None:
    (public / "tree/deep/deeper").mkdir(parents=True)
    (public / "outside").mkdir()
    (public / "tree/link").symlink_to(public / "outside")
    for directory in ("tree/deep/deeper", "tree/deep", "tree", "outside"):
        os.chown(public / directory, NOBODY.pw_uid, -1)
        (public / directory).chmod(0o555)

    def work() -> dict[str, Any]:
        remove_tree(str(public / "tree"))
        return {"changed": True}

    assert as_user("nobody", work) == {"changed": True}
    assert os.listdir(public) == ["outside"]
    assert (public / "outside").stat().st_mode & 0o777 == 0o555


def test_a_prefix_that_make_cannot_handle_has_its_work_directory_elsewhere(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "lab \u00fc x"))
    assert store.work == f"/var/tmp/rumplab-work-{os.geteuid()}"
    assert Store("/opt/rumplab").work == "/opt/rumplab/work"


def test_a_work_directory_that_is_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    store.work = str(tmp_path / "work")
    os.symlink(tmp_path / "precious", store.work)
    with pytest.raises(Broken, match="another user"):
        store.ready()


@needs_root
def test_another_users_directory_in_a_tree_is_removed_with_it(public: Path) -> None:
    (public / "tree/roots").mkdir(parents=True)
    os.chown(public / "tree", NOBODY.pw_uid, -1)

    def remove() -> dict[str, Any]:
        remove_tree(str(public / "tree"))
        return {"gone": not (public / "tree").exists()}

    assert as_user("nobody", remove) == {"gone": True}
