"""Locks on files: trying, waiting, and the record of the holder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.module_utils.host import locks


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Open one file twice, as two runs do."""
    handles = [os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield handles[0], handles[1]
    for handle in handles:
        os.close(handle)


def test_a_lock_is_held_until_its_file_is_closed(pair: tuple[int, int], tmp_path: Path) -> None:
    first, second = pair
    assert locks.take(first) and locks.take(first)
    assert not locks.take(second)
    third = os.open(tmp_path / "lock", os.O_RDWR)
    os.dup2(third, first)
    os.close(third)
    assert locks.take(second)


def test_a_wait_ends_in_time_and_calls_the_given_function_meanwhile(pair: tuple[int, int]) -> None:
    first, second = pair
    locks.take(first)
    calls: list[int] = []
    begun = time.monotonic()
    assert not locks.wait_for(second, 0.25, lambda: calls.append(1))
    assert 0.25 <= time.monotonic() - begun < 5
    assert calls
    assert not locks.wait_for(second, 0)

    def release() -> None:
        os.dup2(second, first)

    assert locks.wait_for(second, 5, release)


def test_the_holder_is_recorded_completely(pair: tuple[int, int], tmp_path: Path) -> None:
    locks.enter(pair[0], {"pid": 1, "purpose": "a long one"})
    locks.enter(pair[0], {"pid": 2})
    assert json.loads((tmp_path / "lock").read_text()) == {"pid": 2}
    assert locks.refusal("process 2", "/lab/lock", 60.0) == (
        "process 2 holds the lock /lab/lock; waited 60 s. Wait for it to end, or end it, and run again."
    )
