"""Root works in directories of the lab user: which links it follows, which files it trusts, gives away and removes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import NOBODY, ROOT, until
from support.staging import needs_root
from unit.plugins.host.test_modules import package

from plugins.module_utils.host import files, record
from plugins.modules import component, lab_directories, lab_file

pytest_plugins = ["fixtures.upstream.served"]
USER = "nobody"
DAEMON = 1


@contextlib.contextmanager
def repeated_as(work: Callable[[], None], uid: int = NOBODY.pw_uid) -> Iterator[int]:
    """Do `work` again and again as another user, until the block ends."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            while True:
                with contextlib.suppress(OSError):
                    work()
        finally:
            os._exit(0)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def once_as(work: Callable[[], None], uid: int = NOBODY.pw_uid) -> None:
    """Do `work` once as another user."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def lab(public: Path) -> Path:
    """A prefix that belongs to the lab user; beside it, a file and a directory that belong to root."""
    os.chown(public, 0, 0)
    for name in ("lab", "lab/var", "lab/etc"):
        (public / name).mkdir()
        os.chown(public / name, NOBODY.pw_uid, NOBODY.pw_gid)
    (public / "secret").write_text("root's")
    (public / "secret").chmod(0o600)
    (public / "roots").mkdir(mode=0o700)
    return public / "lab"


def state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_mode & 0o7777


@needs_root
@pytest.mark.parametrize("place", ["secret", "roots"])
def test_what_the_lab_user_exchanges_meanwhile_is_not_given_away(lab: Path, place: str) -> None:
    target = lab.parent / place
    before = state(target)

    def exchange() -> None:
        for directory in (lab / "var", lab / "etc", lab):
            for name in os.listdir(directory):
                path = directory / name
                if path.is_symlink() or not name.startswith((".new-", "man", "mach", "x.json")):
                    continue
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
                path.symlink_to(target)

    manifest = str(lab / "var/manifest.json")
    directories = [{"path": "", "mode": "0755"}, {"path": "/machines", "mode": "1777"}]
    end, rounds = time.monotonic() + 3, 0
    with repeated_as(exchange):
        while time.monotonic() < end:
            rounds += 1
            with contextlib.suppress(OSError, ValueError):
                record.record(manifest, [{"kind": "path", "name": f"/x/{rounds}"}], USER)
            with contextlib.suppress(OSError, ValueError):
                lab_directories.ensure(str(lab), directories, NOBODY.pw_uid, False)
            with contextlib.suppress(OSError, ValueError):
                files.write_json(str(lab / "etc/x.json"), {}, USER)
            assert state(target) == before
    assert rounds > 20
    assert (lab.parent / "secret").read_text() == "root's"


@needs_root
def test_a_link_of_somebody_else_is_not_followed_and_roots_own_is(lab: Path, tmp_path: Path) -> None:
    (lab.parent / "mine").symlink_to("lab")
    os.close(files.open_directory(str(lab.parent / "mine/var")))
    (lab / "var").rmdir()
    once_as(lambda: (lab / "var").symlink_to(lab.parent / "roots"))
    for what in (lambda path: os.close(files.open_directory(path)), lambda path: files.write_text(path + "/x", "")):
        with pytest.raises(ValueError, match=r"'var' is a link that nobody can change.*remove it"):
            what(str(lab / "var"))
    assert os.listdir(lab.parent / "roots") == []
    with pytest.raises(ValueError, match="var is a link or a file; remove it"):
        lab_directories.ensure(str(lab), [{"path": "/var", "mode": "1777"}], NOBODY.pw_uid, False)
    assert state(lab.parent / "roots") == (0, 0o700)


def test_links_that_lead_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="a/x"):
        files.open_directory(str(tmp_path / "a/x"))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_any_umask_gives_the_same_modes(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        record.record(str(tmp_path / "a/lab/var/manifest.json"), [], USER)
        lab_directories.ensure(
            str(tmp_path / "a/lab"), [{"path": "/var/machines", "mode": "1777"}], os.geteuid(), False
        )
        files.write_json(str(tmp_path / "a/lab/etc/x.json"), {})
    finally:
        os.umask(before)
    modes = {path: (tmp_path / "a" / path).stat().st_mode & 0o7777 for path in ("", "lab", "lab/etc", "lab/var")}
    assert set(modes.values()) == {0o755}, modes
    assert (tmp_path / "a/lab/var/machines").stat().st_mode & 0o7777 == 0o1777
    for name in ("etc/x.json", "etc/manifest.json", "var/manifest.json"):
        assert (tmp_path / "a/lab" / name).stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "a/lab/var/manifest.lock").stat().st_mode & 0o7777 == 0o600


def forge(path: Path) -> None:
    """Write a forged manifest, as the lab user."""
    text = json.dumps({"schema": 1, "entries": [package("openssh-server")]})

    def put() -> None:
        path.unlink(missing_ok=True)
        path.write_text(text)

    once_as(put)


@needs_root
def test_a_manifest_of_the_lab_users_making_is_not_believed(lab: Path) -> None:
    path = str(lab / "var/manifest.json")
    record.record(path, [package("qemu")], USER)
    forge(lab / "var/manifest.json")
    assert record.entries_of(path) == [package("qemu")]
    record.record(path, [package("gcc")], USER)
    assert json.loads(Path(path).read_text())["entries"] == [package("qemu"), package("gcc")]
    assert Path(path).stat().st_uid == 0
    for name in ("var", "etc"):
        forge(lab / name / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest.json belongs to nobody, and root would act on .* 'chown root "):
        record.record(path, [], USER)


@needs_root
def test_a_list_of_packages_of_the_lab_users_making_is_not_believed(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "installed", lambda _: ["openssh-server"])
    monkeypatch.setattr(record, "installed_for", lambda _manager, new, _wanted: set(new))
    text = json.dumps({"manager": "apt", "wanted": ["openssh-server"], "before": {"package": []}})

    def put() -> None:
        (lab / "var/packages-before-x.json").write_text(text)

    once_as(put)
    assert record.settle_abandoned(str(lab / "var/manifest.json"), USER, older_than=0) == []
    assert not (lab / "var/packages-before-x.json").exists()


@needs_root
def test_a_manifest_of_the_user_who_called_sudo_is_believed(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(lab / "var/manifest.json")
    monkeypatch.setenv("SUDO_UID", str(NOBODY.pw_uid))
    assert record.entries_of(str(lab / "var/manifest.json")) == [package("openssh-server")]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"entries": 1}', '{"entries": [1]}', None])
@pytest.mark.parametrize("which", ["var", "etc"])
def test_a_lost_or_damaged_manifest_is_mended_from_the_other(tmp_path: Path, which: str, damage: str | None) -> None:
    path = tmp_path / "var/manifest.json"
    record.record(str(path), [package("qemu")], USER)
    hurt = tmp_path / which / "manifest.json"
    hurt.unlink()
    if damage is not None:
        hurt.write_text(damage)
    assert package("qemu") in record.entries_of(str(path))
    record.record(str(path), [], USER)
    found = json.loads(hurt.read_text())["entries"]
    assert package("qemu") in found and package("qemu") in json.loads(path.read_text())["entries"]
    assert path.read_text() == (tmp_path / "etc/manifest.json").read_text()


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_what_is_no_plain_file_is_named_and_nobody_waits_for_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    {"fifo": os.mkfifo, "link": lambda at: os.symlink("/etc/passwd", at), "directory": os.mkdir}[kind](path)
    with pytest.raises(ValueError, match=r"x is no plain file.*run ./provision again"):
        files.read_text(str(path))


@needs_root
def test_nobody_but_root_and_the_lab_user_can_hold_the_lock(lab: Path) -> None:
    path = str(lab / "var/manifest.json")
    record.record(path, [], USER)

    def hold() -> None:
        with (lab / "var/manifest.lock").open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)

    once_as(hold, NOBODY.pw_uid)
    with pytest.raises(AssertionError):
        once_as(hold, DAEMON)
    # A lock on the directory, which everybody can open, has no effect.
    handle = os.open(lab / "var", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    record.record(path, [package("qemu")], USER)
    os.close(handle)


def test_a_lock_that_is_held_too_long_names_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LOCK_WAIT", 0.3)
    path = str(tmp_path / "var/manifest.json")
    record.record(path, [], USER)
    name = files.owner_name(os.getuid())
    with (
        record.locked(path, USER),
        pytest.raises(ValueError, match=f"process {os.getpid()} of {name} holds the lock {tmp_path}/var/manifest.lock"),
    ):
        record.record(path, [package("qemu")], USER)


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "var/manifest.json")
    (tmp_path / "var").mkdir()
    (tmp_path / "etc").mkdir()

    def write(first: int) -> None:
        for number in range(first, first + 10):
            record.record(path, [package(f"p{number}")], USER)

    threads = [threading.Thread(target=write, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(record.entries_of(path)) == 40


def test_runs_that_begin_at_once_make_the_prefix_together(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def begin(prefix: Path, number: int) -> None:
        try:
            record.record(str(prefix / "var/manifest.json"), [package(f"p{number}")], USER)
            lab_directories.ensure(str(prefix), [{"path": "/var/x", "mode": "0755"}], os.geteuid(), False)
        except Exception as error:
            failures.append(error)

    for turn in range(20):
        prefix = tmp_path / str(turn) / "lab"
        threads = [threading.Thread(target=begin, args=(prefix, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert failures == []
        kinds = [entry["kind"] for entry in record.entries_of(str(prefix / "var/manifest.json"))]
        assert kinds.count("package") == 4


def test_an_error_names_the_whole_path() -> None:
    with pytest.raises(OSError, match=r"'/proc/rumplab'$"):
        files.make_directory("/proc/rumplab")


# Begins to write a file, reports that, and waits to be killed.
WRITER = """
import os, sys, time
from plugins.module_utils.host import files
directory = files.open_directory(sys.argv[1])
print(files._fresh(directory, ".new-")[0], flush=True)
time.sleep(60)
"""


def test_temporary_files_of_a_killed_run_are_removed_and_those_of_a_live_one_stay(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writer = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    name = writer.stdout.readline().strip()
    files.write_text(str(tmp_path / "x"), "x")
    assert sorted(os.listdir(tmp_path)) == sorted([name, "x"])
    writer.kill()
    writer.wait(10)
    writer.stdout.close()
    files.write_text(str(tmp_path / "x"), "y")
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("snapshot", "abandoned"),
    [
        ({"boot": "b", "up": 90.0}, False),
        ({"boot": "b", "up": 40.0}, True),
        # The host was rebooted: the boot id differs or the uptime is shorter than recorded; or neither is recorded.
        ({"boot": "a", "up": 90.0}, True),
        ({"boot": "b", "up": 110.0}, True),
        ({"time": 1.0}, True),
    ],
)
def test_a_run_is_abandoned_by_boot_id_and_uptime(snapshot: dict[str, Any], abandoned: bool) -> None:
    assert record.is_abandoned(snapshot, {"boot": "b", "up": 100.0}, 50) is abandoned


def test_setting_the_clock_makes_no_run_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    before = record.moment()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert record.is_abandoned(before, record.moment(), 7200) is False


def test_a_damaged_descriptor_counts_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "qemu.json"
    assert component.former(str(path)) == {}
    for text in ("", "{", "[]"):
        path.write_text(text)
        assert component.former(str(path)) == {}
    path.write_text('{"a": 1}')
    assert component.former(str(path)) == {"a": 1}


@needs_root
def test_a_file_of_the_lab_is_right_when_content_owner_and_mode_are(lab: Path) -> None:
    path, owner = lab / "etc/rumplab.json", files.owner_for(USER)
    assert not lab_file.is_right(str(path), "{}", owner)
    files.write_text(str(path), "{}", owner=owner)
    assert lab_file.is_right(str(path), "{}", owner)
    assert not lab_file.is_right(str(path), "{ }", owner)
    path.chmod(0o600)
    assert not lab_file.is_right(str(path), "{}", owner)
    path.chmod(0o644)
    os.chown(path, 0, 0)
    assert not lab_file.is_right(str(path), "{}", owner)
    path.unlink()
    path.symlink_to(lab.parent / "secret")
    assert not lab_file.is_right(str(path), "root's", owner)
    files.write_text(str(path), "{}", owner=owner)
    assert not path.is_symlink() and (lab.parent / "secret").read_text() == "root's"


def test_the_directories_are_made_once(tmp_path: Path) -> None:
    wanted = [{"path": "", "mode": "0755"}, {"path": "/var", "mode": "0755"}, {"path": "/var/machines", "mode": "1777"}]
    prefix = str(tmp_path / "lab")
    assert lab_directories.ensure(prefix, wanted, os.geteuid(), True) == [prefix + entry["path"] for entry in wanted]
    assert not os.path.exists(prefix)
    assert len(lab_directories.ensure(prefix, wanted, os.geteuid(), False)) == 3
    assert lab_directories.ensure(prefix, wanted, os.geteuid(), False) == []
    os.chmod(prefix + "/var/machines", 0o755)
    assert lab_directories.ensure(prefix, wanted, os.geteuid(), False) == [prefix + "/var/machines"]


def test_a_link_is_replaced_atomically(tmp_path: Path) -> None:
    link = tmp_path / "rumplab"
    link.symlink_to("/elsewhere/rumplab/bin/rumplab")
    seen: list[bool] = []
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            seen.append(os.path.lexists(link))

    thread = threading.Thread(target=watch)
    thread.start()
    for number in range(200):
        files.point(str(link), f"/opt/{number}")
    until(lambda: len(seen) > 10)
    watching.set()
    thread.join(5)
    assert all(seen) and os.readlink(link) == "/opt/199"


def test_an_error_of_the_system_is_reported_with_path_and_remedy() -> None:
    full = files.error_text(OSError(28, "No space left on device", "/lab/var"))
    assert full == "/lab/var: No space left on device; make room there, or choose another rumplab_prefix"
    assert files.error_text(OSError(30, "Read-only file system", b"/lab")).startswith(
        "/lab: Read-only file system; mount it"
    )
    assert files.error_text(OSError(1, "Operation not permitted")) == "Operation not permitted"
    assert files.error_text(ValueError("x is no manifest; remove it")) == "x is no manifest; remove it"
    assert files.error_text(OSError("refused")) == "refused"


def test_the_first_of_two_runs_that_make_a_file_once_has_made_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with files.replacing(str(path), 0o600, first=True) as stream:
        stream.write(b"second")
        with files.replacing(str(path), 0o600, first=True) as other:
            other.write(b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_directory_in_a_files_place_is_replaced_and_one_with_content_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.mkdir()
    files.write_text(str(path), "x")
    assert path.read_text() == "x"
    (tmp_path / "y" / "theirs").mkdir(parents=True)
    with pytest.raises(OSError, match=f"'{tmp_path}/y'$"):
        files.write_text(str(tmp_path / "y"), "x")
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]


def test_a_link_to_a_directory_in_a_files_place_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "x").symlink_to("target")
    files.write_text(str(tmp_path / "x"), "x")
    assert (tmp_path / "x").read_text() == "x" and (tmp_path / "target").is_dir()
