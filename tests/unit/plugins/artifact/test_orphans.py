"""Processes that a killed run left: the next run ends these, and no others."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import NOBODY, gone, opener, provide, request, until
from support.staging import needs_root

from plugins.module_utils.artifact import processes
from plugins.module_utils.artifact.lock import Lock, is_alive
from plugins.module_utils.artifact.privilege import as_user

pytest_plugins = ["fixtures.upstream.served"]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

# Processes that a build may start: a grandchild; one in its own session; one that closed the lock's descriptor; one
# with an empty environment. Each writes its pid to a file.
BUILD = """
cd "$0"
sh -c 'echo $$ >plain; sleep 60; true' &
setsid sh -c 'echo $$ >daemon; sleep 60; true' &
bash -c 'for fd in /proc/$$/fd/*; do n=${fd##*/}; [ $n -gt 2 ] && eval "exec $n>&-"; done; echo $$ >closed; sleep 60' &
env -i PATH="$PATH" sh -c 'echo $$ >cleared; sleep 60; true' &
wait
"""
KINDS = ("plain", "daemon", "closed", "cleared")


def wanted(prefix: Path, script: str = BUILD, **more: Any) -> dict[str, Any]:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("source"))
    source = {"bundle": "src", "data": base64.b64encode(content.getvalue()).decode()}
    build = {"root": "hello", "commands": [{"argv": ["sh", "-c", script, str(prefix)]}]}
    return request(prefix, source, build=build, paths={}, **{"lock_wait": 30.0, **more})


def number(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


@pytest.fixture
def lab(public: Path) -> Path:
    """A prefix that belongs to the lab user."""
    (public / "lab").mkdir()
    os.chown(public / "lab", NOBODY.pw_uid, NOBODY.pw_gid)
    return public / "lab"


def killed(prefix: Path) -> dict[str, int]:
    """Start a run in its own session, kill Ansible's part of it, and return the pids of what still runs."""
    child = os.fork()
    if child == 0:
        os.setsid()
        as_user("nobody", lambda: provide(wanted(prefix), opener))
        os._exit(0)
    found = {kind: number(prefix / kind) for kind in KINDS}
    owner = json.loads((prefix / "var/lock/hello.lock").read_text())["pid"]
    # Kill both at once, so that neither can clean up after the other.
    os.kill(owner, signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(child, 0)
    until(lambda: gone(owner))
    return found


@needs_root
def test_the_next_run_ends_the_orphans_and_takes_the_lock_at_once(lab: Path) -> None:
    left = killed(lab)
    assert not gone(left["daemon"]) and not gone(left["closed"])
    answer = as_user("nobody", lambda: provide(wanted(lab, "mkdir @dest@/hello"), opener))
    assert answer["state"] == "installed" and answer["waited"] < 1, answer
    until(lambda: all(gone(pid) for pid in left.values()), 5)


@needs_root
def test_when_the_module_alone_is_killed_its_build_ends(lab: Path) -> None:
    child = os.fork()
    if child == 0:
        as_user("nobody", lambda: provide(wanted(lab), opener))
        os._exit(0)
    left = {kind: number(lab / kind) for kind in KINDS}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    until(lambda: all(gone(left[kind]) for kind in ("plain", "closed", "cleared")), 5)
    until(lambda: os.listdir(lab / "work") == [], 5)
    answer = as_user("nobody", lambda: provide(wanted(lab, "mkdir @dest@/hello"), opener))
    assert answer["state"] == "installed" and answer["waited"] < 1, answer
    until(lambda: gone(left["daemon"]), 5)


@needs_root
def test_the_orphan_of_a_run_that_is_killed_right_after_the_start_is_found_too(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed before it can record the command."""

    def end(*_: object, **__: object) -> None:
        # Before that, the shell would die of the signal for its parent's death.
        number(lab / "plain")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        os.setsid()
        monkeypatch.setattr(subprocess.Popen, "wait", end)
        as_user("nobody", lambda: provide(wanted(lab, "trap '' TERM; echo $$ >$0/plain; sleep 60; true"), opener))
        os._exit(0)
    os.waitpid(child, 0)
    left = number(lab / "plain")
    assert not gone(left)
    answer = as_user("nobody", lambda: provide(wanted(lab, "mkdir @dest@/hello"), opener))
    assert answer["state"] == "installed" and answer["waited"] < 1, answer
    until(lambda: gone(left), 5)


# Only holds the lock, only waits for it, or only works in the build's directory: none of these is an orphan.
BYSTANDER = """
import fcntl, os, sys, time
if "lock" in sys.argv:
    stream = open(sys.argv[1], "r+")
    fcntl.flock(stream, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("what", ["lock", "builds"])
def test_a_process_that_only_holds_the_lock_or_only_works_there_is_left_alone(tmp_path: Path, what: str) -> None:
    path = tmp_path / "lock"
    dead = {"pid": 999_999_999, "purpose": "x", "since": "y", "session": 999_999_999, "session_started": "z"}
    path.write_text(json.dumps({**dead, "temporary": "/tmp/build"}))
    path.chmod(0o600)
    environment = {**os.environ, **({"TMPDIR": "/tmp/build"} if what == "builds" else {})}
    argv = [sys.executable, "-c", BYSTANDER, str(path), what]
    bystander = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)
    assert bystander.stdout is not None and bystander.stdout.readline() == "ready\n"
    with path.open() as stream:
        assert processes.end_orphans(stream.fileno(), json.loads(path.read_text())) == 0
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait(10)
    bystander.stdout.close()


def test_waiting_and_running_runs_are_left_alone(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with Lock(str(tmp_path / "lock"), 5, "first"):
            time.sleep(1)
        os._exit(0)
    until(lambda: (tmp_path / "lock").exists() and (tmp_path / "lock").read_text() != "")
    with Lock(str(tmp_path / "lock"), 10, "second") as lock:
        assert lock.waited > 0.3
    assert os.waitpid(child, 0)[1] == 0


def test_another_process_with_a_reused_pid_is_not_the_owner() -> None:
    here = {"pid": os.getpid(), "started": processes.started(os.getpid())}
    assert is_alive(here)
    assert is_alive({"pid": os.getpid()})
    assert not is_alive({**here, "started": f"{processes.boot()} 1"})
    assert not is_alive({"pid": 999_999_999})


@pytest.mark.parametrize("mode", [0o644, 0o666])
def test_nobody_but_its_owner_can_open_the_lock(tmp_path: Path, mode: int) -> None:
    with Lock(str(tmp_path / "new"), 0, "x"):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    (tmp_path / "old").write_text("")
    (tmp_path / "old").chmod(mode)
    with Lock(str(tmp_path / "old"), 0, "x"):
        assert (tmp_path / "old").stat().st_mode & 0o777 == 0o600


def test_a_lock_is_no_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(OSError, match="lock"):
        Lock(str(tmp_path / "lock"), 0, "x").__enter__()
    assert (tmp_path / "precious").read_text() == "content"
