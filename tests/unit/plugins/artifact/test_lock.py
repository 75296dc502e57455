"""The lock of role artifact: the second waits, the holder is named, and who builds still holds it."""

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

# Takes the lock, starts a builder that waits for its standard input to end, says so, and waits to be killed.
HOLDER = """
import subprocess, sys, time
from plugins.module_utils.artifact.lock import Lock
with Lock(sys.argv[1], 5, "providing hello"):
    builder = subprocess.Popen(["cat"], stdin=0, stdout=subprocess.DEVNULL, close_fds=False)
    print(builder.pid, flush=True)
    time.sleep(60)
"""


def test_a_free_lock_is_had_at_once_and_again(tmp_path: Path) -> None:
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


def test_who_waits_too_long_is_told_who_holds_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with Lock(path, 0, "providing hello"), pytest.raises(Broken) as caught:
        Lock(path, 0.3, "other").__enter__()
    for part in (f"process {os.getpid()}", "providing hello", path, "waited 0 s"):
        assert part in str(caught.value)


def test_a_file_without_sense_in_it_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("{")
    assert Lock(str(tmp_path / "lock"), 0, "x").holder() == "another process"


def test_what_an_earlier_holder_left_behind_the_line_is_not_read(tmp_path: Path) -> None:
    """As where the holder was killed between writing its line and cutting off what stood there."""
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
    with pytest.raises(Broken, match=f"what process {holder.pid} .* left behind"):
        Lock(path, 0.3, "second").__enter__()
    holder.stdin.close()
    until(lambda: gone(builder))
    with Lock(path, 5, "second") as lock:
        assert lock.waited < 5
    holder.stdout.close()
