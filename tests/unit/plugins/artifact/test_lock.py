"""The lock of role artifact: a second run waits, the error names the holder, and a running build keeps the lock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fixtures.upstream.support import ROOT, gone, until

from plugins.module_utils.artifact.errors import Broken
from plugins.module_utils.artifact.lock import Lock

# Takes the lock, starts a builder that waits for the end of its input, reports that, and waits to be killed.
HOLDER = """
import subprocess, sys, time
from plugins.module_utils.artifact.lock import Lock
with Lock(sys.argv[1], 5, "providing hello"):
    builder = subprocess.Popen(["cat"], stdin=0, stdout=subprocess.DEVNULL, close_fds=False)
    print(builder.pid, flush=True)
    time.sleep(60)
"""


def test_a_free_lock_can_be_taken_at_once_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Lock(str(tmp_path / "lock"), 0, "providing hello") as lock:
            assert lock.waited < 1
            assert f"process {os.getpid()} (providing hello, since 2" in lock.holder()


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    held = threading.Event()

    def first() -> None:
        with Lock(path, 5, "first"):
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(5)
    with Lock(path, 5, "second") as lock:
        assert 0.2 < lock.waited < 4
    thread.join(5)


def test_the_error_after_too_long_a_wait_names_the_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with Lock(path, 0, "providing hello"), pytest.raises(Broken) as caught:
        Lock(path, 0.3, "other").__enter__()
    for part in (f"process {os.getpid()}", "providing hello", path, "waited 0 s"):
        assert part in str(caught.value)


def test_an_unreadable_lock_file_names_no_holder(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("{")
    assert Lock(str(tmp_path / "lock"), 0, "x").holder() == "another process"


def test_the_rest_of_an_earlier_holders_line_is_not_read(tmp_path: Path) -> None:
    """As if the holder was killed after it wrote its line and before it truncated the file."""
    path = tmp_path / "lock"
    with Lock(str(path), 0, "providing hello") as lock:
        with path.open("a") as stream:
            stream.write('0", "purpose": "providing something longer"}\n')
        assert f"process {os.getpid()} (providing hello" in lock.holder()


def test_a_builder_whose_run_was_killed_still_holds_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    argv = [sys.executable, "-c", HOLDER, path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    builder = int(holder.stdout.readline())
    holder.kill()
    holder.wait(10)
    assert not gone(builder)
    with pytest.raises(Broken, match=f"a process that process {holder.pid} .* left when it was killed"):
        Lock(path, 0.3, "second").__enter__()
    holder.stdin.close()
    until(lambda: gone(builder))
    with Lock(path, 5, "second") as lock:
        assert lock.waited < 5
    holder.stdout.close()
