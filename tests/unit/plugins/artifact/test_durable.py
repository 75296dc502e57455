"""Role artifact and trees that change by themselves: power cuts, corrupted or lost files, clocks that are set back."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import OTHER, ROOT, STAMP, opener, provide, request
from support import loopdisk
from support.staging import needs_root

from plugins.module_utils.artifact import durable, fetch, inventory
from plugins.module_utils.artifact.store import Store

FILES = 40
CUTS = int(os.environ.get("RUMPLAB_POWER_CUTS", "4"))


def bundle() -> dict[str, str]:
    """Return a source that contains one small file."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo("source")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    return {"bundle": "src", "data": base64.b64encode(content.getvalue()).decode()}


def wanted(prefix: Path, stamp: str = STAMP, **more: Any) -> dict[str, Any]:
    """Return a request for a tree of FILES files with the same text."""
    script = f"mkdir -p $0/hello/bin; for i in $(seq {FILES}); do echo content >$0/hello/bin/$i; done"
    build = {"root": "hello", "commands": [{"argv": ["sh", "-c", script, "@dest@"]}]}
    stamps = {"upstream": stamp, "substitute": ""}
    return request(prefix, bundle(), build=build, paths={"one": "bin/1"}, stamps=stamps, **more)


def flip_bit(path: Path) -> None:
    """Change one bit of a file, and keep its size and time stamps."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_tree_has_an_inventory_of_its_files(tmp_path: Path) -> None:
    assert provide(wanted(tmp_path), opener)["state"] == "installed"
    tree = str(tmp_path / "hello") + "/"
    listed = inventory.read(tree)
    assert len([what for what in listed.values() if what.startswith("file 0644 ")]) == FILES + 1
    assert listed["bin"] == "directory 0755"
    assert ".complete" not in listed and ".provenance.json" in listed
    assert inventory.differences(tree) == []


def test_the_inventory_finds_every_kind_of_difference(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for name in ("altered", "gone", "mode", "kind", "sub/\udce4"):
        (tree / name).write_text("text")
    (tree / "link").symlink_to("altered")
    inventory.write(str(tree))
    assert inventory.differences(str(tree)) == []
    flip_bit(tree / "altered")
    (tree / "gone").unlink()
    (tree / "mode").chmod(0o600)
    (tree / "kind").unlink()
    (tree / "kind").symlink_to("altered")
    (tree / "link").unlink()
    (tree / "link").symlink_to("mode")
    (tree / "new").write_text("")
    (tree / "sub/__pycache__").mkdir()
    (tree / "sub/__pycache__/x.pyc").write_text("")
    assert inventory.differences(str(tree)) == ["altered", "gone", "kind", "link", "mode", "new"]


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"files": 1}', "[" * 100_000])
def test_a_list_that_is_lost_or_damaged_is_a_difference(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / inventory.NAME).write_text(text)
    assert inventory.differences(str(tmp_path)) == [inventory.NAME]


@pytest.mark.parametrize("name", ["bin/1", "bin/7", ".provenance.json", ".files.json", ".complete"])
@pytest.mark.parametrize("how", ["lost", "altered", "emptied"])
def test_a_damaged_tree_is_made_anew(tmp_path: Path, name: str, how: str) -> None:
    provide(wanted(tmp_path), opener)
    path = tmp_path / "hello" / name
    {"lost": path.unlink, "altered": lambda: flip_bit(path), "emptied": lambda: os.truncate(path, 0)}[how]()
    answer = provide(wanted(tmp_path), opener)
    assert answer["state"] == "installed" and answer["changed"] is True, answer
    assert all((tmp_path / "hello/bin" / str(number)).read_text() == "content\n" for number in range(1, FILES + 1))
    assert inventory.differences(str(tmp_path / "hello")) == []
    assert provide(wanted(tmp_path), opener)["changed"] is False
    assert len(os.listdir(tmp_path / "store")) == 1


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_a_lost_or_damaged_descriptor_is_written_anew(tmp_path: Path, text: str | None) -> None:
    provide(wanted(tmp_path), opener)
    path = tmp_path / "etc/components.d/hello.json"
    before = path.read_text()
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert provide(wanted(tmp_path), opener)["changed"] is True
    assert path.read_text() == before


@pytest.mark.parametrize("name", ["hello/bin/1", "hello/.provenance.json", "hello/.files.json", "hello/.complete"])
@pytest.mark.parametrize("what", ["pipe", "directory", "link", "depths"])
def test_what_is_no_plain_file_is_not_waited_for_and_made_anew(tmp_path: Path, name: str, what: str) -> None:
    provide(wanted(tmp_path), opener)
    for path in (tmp_path / name, tmp_path / "etc/components.d/hello.json"):
        path.unlink()
        make = {"pipe": os.mkfifo, "directory": os.mkdir, "link": lambda path: os.symlink("/dev/zero", path)}
        make.get(what, lambda path: path.write_text("[" * 100_000))(path)
    assert provide(wanted(tmp_path), opener)["changed"] is True
    assert is_whole(tmp_path) and json.loads(path.read_text())["state"] == "installed"


@pytest.mark.parametrize("what", ["pipe", "directory", "link"])
def test_what_is_no_plain_file_in_the_cache_is_fetched_anew(tmp_path: Path, what: str) -> None:
    pin = {"urls": ["x"], "sha256": "0" * 64}
    path = tmp_path / "file"
    {"pipe": os.mkfifo, "directory": os.mkdir, "link": lambda path: os.symlink("nowhere", path)}[what](path)
    assert not fetch.is_cached(str(path), pin) and not os.path.lexists(path)


def test_a_run_that_was_killed_at_its_end_leaves_its_work_to_the_next(tmp_path: Path) -> None:
    provide(wanted(tmp_path), opener)
    (tmp_path / "work/hello/dest").mkdir(parents=True)
    (tmp_path / f"store/.hello-1.0-{STAMP[:12]}.part").mkdir()
    for directory in ("cache", "etc/components.d"):
        (tmp_path / directory / ".new-0123").write_text("{")
    assert provide(wanted(tmp_path), opener)["state"] == "installed"
    assert os.listdir(tmp_path / "work") == [] and len(os.listdir(tmp_path / "store")) == 1
    assert list(tmp_path.rglob(".new-*")) == []


def test_a_descriptor_has_the_size_and_time_of_its_files(tmp_path: Path) -> None:
    provide(wanted(tmp_path), opener)
    described = json.loads((tmp_path / "etc/components.d/hello.json").read_text())
    status = (tmp_path / "hello/bin/1").stat()
    assert described["fingerprints"] == {"one": f"{status.st_size} {status.st_mtime_ns}"}


def test_a_damaged_tree_stays_in_use_while_it_cannot_be_made_anew(tmp_path: Path) -> None:
    provide(wanted(tmp_path), opener)
    (tmp_path / "hello/bin/7").unlink()
    answer = provide(wanted(tmp_path, blocked="no compiler"), opener)
    assert answer["state"] == "deferred"
    assert "has changed since it was installed (bin/7); no compiler" in answer["reason"]
    assert (tmp_path / "hello/bin/1").exists()


def test_a_clock_that_was_set_back_loses_no_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, day = time.time_ns(), 86_400 * 10**9
    for stamp, moment in ((STAMP, now), (OTHER, now - 400 * day), ("a" * 64, now - 399 * day)):
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment)
        provide(wanted(tmp_path, stamp), opener)
    kept = {Store(str(tmp_path)).stamp_of(str(tmp_path / "store" / name)) for name in os.listdir(tmp_path / "store")}
    assert kept == {OTHER, "a" * 64}


def test_a_tree_is_synced_to_disk_before_it_is_marked_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, order = Store(str(tmp_path)), []
    store.ready()
    made, tree = tmp_path / "work/made", store.tree("hello", "1.0", STAMP)
    made.mkdir()
    (made / ".provenance.json").write_text("{}")

    def sync_tree(partial: str) -> None:
        order.append(("tree", sorted(os.listdir(partial))))

    def sync(path: str) -> None:
        order.append((os.path.relpath(path, tmp_path), sorted(os.listdir(path))))

    monkeypatch.setattr(durable, "sync_tree", sync_tree)
    monkeypatch.setattr(durable, "sync", sync)
    store.adopt(str(made), tree, STAMP)
    # switch() syncs the prefix through an open descriptor.
    monkeypatch.setattr(os, "fsync", lambda handle: sync(os.readlink(f"/proc/self/fd/{handle}")))
    store.switch("hello", tree)
    name = os.path.basename(tree)
    assert order[0] == ("tree", [".files.json", ".provenance.json"])
    assert order[1] == (f"store/.{name}.part", [".complete", ".files.json", ".provenance.json"])
    assert order[2] == ("store", [name])
    assert order[3][0] == "." and "hello" in order[3][1]


def test_without_syncfs_each_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_sync_file_system", lambda _: False)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_text("x")
    (tmp_path / "link").symlink_to("/nowhere")
    synced: list[str] = []
    monkeypatch.setattr(durable, "sync", synced.append)
    durable.sync_tree(str(tmp_path))
    assert synced == [str(tmp_path / name) for name in ("sub/file", "sub")] + [str(tmp_path)]


# Begins to write a file, reports that, and waits to be killed.
WRITER = """
import sys, time
from plugins.module_utils.host import files
with files.replacing(sys.argv[1] + "/x.json", opened=files.open_unchecked) as stream:
    stream.write(b"half")
    print("begun", flush=True)
    time.sleep(60)
"""


def test_temporary_files_of_a_killed_run_are_removed_and_those_of_a_live_one_stay(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writer = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "begun\n"
    durable.write_json(str(tmp_path / "y.json"), {})
    assert len(os.listdir(tmp_path)) == 2
    writer.kill()
    writer.wait(10)
    writer.stdout.close()
    durable.write_json(str(tmp_path / "y.json"), {})
    assert os.listdir(tmp_path) == ["y.json"]
    assert (tmp_path / "y.json").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A journaling file system on a loop device, for simulated power cuts."""
    image, place = tmp_path / "disk", tmp_path / "mounted"
    place.mkdir()
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    loopdisk.make(image)
    try:
        loopdisk.mount(image, place)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device: {error.stderr.decode(errors='replace').strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=60)


def mount_again(place: Path) -> None:
    """Mount the disk again with the content that it had at the power cut."""
    image = place.with_name("disk")
    loopdisk.unmount(image, place)
    loopdisk.mount(image, place)


def is_whole(prefix: Path) -> bool:
    """Return whether the tree in use contains all files of the build."""
    texts = [(prefix / "hello/bin" / str(number)).read_text() for number in range(1, FILES + 1)]
    return texts == ["content\n"] * FILES and inventory.differences(str(prefix / "hello")) == []


@needs_root
@pytest.mark.parametrize("cut", range(CUTS))
def test_what_counts_after_a_power_cut_is_whole(disk: Path, cut: int) -> None:
    chance = random.Random(cut)
    prefix = disk / "lab"
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            provide(wanted(prefix), opener)
        os._exit(0)
    time.sleep(chance.uniform(0, 0.6))
    loopdisk.cut_power(disk)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    mount_again(disk)
    store = Store(str(prefix))
    found = store.find("hello", STAMP)
    if store.current("hello"):
        assert found == store.current("hello") and is_whole(prefix)
    if found:
        assert inventory.differences(found) == []
    assert provide(wanted(prefix), opener)["state"] == "installed"
    assert is_whole(prefix)


@needs_root
def test_an_installation_that_has_ended_survives_a_power_cut(disk: Path) -> None:
    assert provide(wanted(disk / "lab"), opener)["state"] == "installed"
    loopdisk.cut_power(disk)
    mount_again(disk)
    assert is_whole(disk / "lab")
    assert provide(wanted(disk / "lab"), opener)["changed"] is False
