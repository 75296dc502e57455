"""A signal while a child process starts leaves no child without an owner."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from rumplab.host import child_environment, children

SLEEP = ["/bin/sleep", "60"]
ENVIRONMENT = child_environment.of(child_environment.TOOL)


class Ended(Exception):
    """What the handlers of this test raise."""


@pytest.fixture
def raising() -> Iterator[None]:
    """Let each of the signals raise Ended."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        raise Ended

    before = {number: signal.signal(number, handler) for number in children.ENDING}
    yield
    for number, one in before.items():
        signal.signal(number, one)


def signalling(number: int, note: Path) -> Callable[[], None]:
    """Return what the child does before it executes its program, while the constructor of Popen waits for it."""

    def before_exec() -> None:
        note.write_text(str(os.getpid()))
        os.kill(os.getppid(), number)
        time.sleep(0.2)

    return before_exec


def ended(note: Path) -> bool:
    return not Path(f"/proc/{note.read_text()}").exists()


@pytest.mark.parametrize("number", children.ENDING)
@pytest.mark.usefixtures("raising")
def test_a_signal_while_a_child_starts_ends_the_child(number: int, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with (
        pytest.raises(Ended),
        children.running(SLEEP, subprocess.Popen.kill, ENVIRONMENT, preexec_fn=signalling(number, note)),
    ):
        pytest.fail("the block ran")
    assert ended(note)


@pytest.mark.usefixtures("raising")
def test_a_signal_during_the_block_ends_the_child() -> None:
    with pytest.raises(Ended), children.running(SLEEP, subprocess.Popen.kill, ENVIRONMENT) as child:
        signal.raise_signal(signal.SIGTERM)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("raising")
def test_after_the_delay_each_signal_has_its_handler_and_none_is_blocked() -> None:
    handlers = [signal.getsignal(number) for number in children.ENDING]
    for number in children.ENDING:
        with pytest.raises(Ended), children.signals_delayed():
            signal.raise_signal(number)
        assert [signal.getsignal(one) for one in children.ENDING] == handlers
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(children.ENDING)


@pytest.mark.usefixtures("raising")
def test_a_child_inherits_neither_the_delay_nor_a_mask(tmp_path: Path) -> None:
    status = tmp_path / "status"
    with status.open("wb") as file, children.signals_delayed():
        subprocess.run(["cat", "/proc/self/status"], stdout=file, check=True, env=ENVIRONMENT)
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    wanted = sum(1 << (number - 1) for number in children.ENDING)
    assert not int(fields["SigBlk"], 16) & wanted
    assert not int(fields["SigIgn"], 16) & wanted


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with children.signals_delayed():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_program_that_is_missing_is_an_os_error() -> None:
    calls: list[Any] = []
    with pytest.raises(FileNotFoundError), children.running(["/nonexistent/program"], calls.append, ENVIRONMENT):
        pytest.fail("the block ran")
    assert calls == []
