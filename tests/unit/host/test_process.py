"""Recognising a process by its token, and ending only that process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from rumplab.host import process

STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait()


def token_of(pid: int) -> str:
    token = process.started(pid)
    assert token is not None
    return token


def test_a_process_is_known_again(sleeper: subprocess.Popen[bytes]) -> None:
    token = token_of(sleeper.pid)
    assert process.alive(sleeper.pid, token)
    assert not process.alive(sleeper.pid, token + "0")
    assert token != token_of(os.getpid()) or sleeper.pid == os.getpid()


def test_ps_knows_it_too(sleeper: subprocess.Popen[bytes]) -> None:
    first = process._started_ps(sleeper.pid)
    assert first
    assert process._started_ps(sleeper.pid) == first
    assert process._started_ps(2**22 + 1) is None


def test_a_zombie_is_gone() -> None:
    child = subprocess.Popen(["sleep", "60"])
    token = token_of(child.pid)
    child.kill()
    deadline = time.monotonic() + 5
    while process.started(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.path.exists(f"/proc/{child.pid}") or sys.platform == "darwin"
    assert not process.alive(child.pid, token)
    child.wait()


def test_terminate(sleeper: subprocess.Popen[bytes]) -> None:
    assert process.terminate(sleeper.pid, token_of(sleeper.pid), patience=5)


def test_terminate_insists() -> None:
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    began = time.monotonic()
    assert process.terminate(child.pid, token_of(child.pid), patience=0.5)
    assert 0.4 < time.monotonic() - began < 5
    child.stdout.close()


def test_another_process_with_the_same_pid_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    assert process.terminate(sleeper.pid, "an earlier life", patience=0.1)
    time.sleep(0.1)
    assert sleeper.poll() is None


def test_waiting_is_bounded(sleeper: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    assert not process.wait_gone(sleeper.pid, token_of(sleeper.pid), 0.2)
    assert time.monotonic() - began < 10


@pytest.mark.skipif(not process.PROC.is_dir(), reason="only Linux's tokens have the start time")
def test_how_long_a_process_runs_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "30"]) as child:
        try:
            token = process.started(child.pid)
            assert token
            monkeypatch.setattr(time, "time", lambda: 0.0)
            seconds = process.seconds_since(token)
            assert seconds is not None
            assert 0 <= seconds < 10
            other = f"{token.rpartition('/')[0]}/0"
            boot = process.seconds_since(other)
            assert boot is not None
            assert boot > seconds
        finally:
            child.kill()


def test_no_running_time_comes_from_another_systems_token() -> None:
    assert process.seconds_since("") is None
    assert process.seconds_since("Fri Nov 27 12:00:00 2026") is None
