"""Reading QEMU's log: complete, cut at every byte, altered."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumplab.errors import RumplabError
from rumplab.recording import log

HEAD = log.VERSION.to_bytes(4, "big") + bytes(8)
END = bytes((log.SIGNAL, log.END))


def dword(number: int) -> bytes:
    return number.to_bytes(4, "big")


def array(content: bytes) -> bytes:
    return dword(len(content)) + content


def instructions(count: int) -> bytes:
    return bytes((log.INSTRUCTIONS,)) + dword(count)


EVENTS = st.one_of(
    st.integers(1, 0xFFFFFFFF).map(instructions),
    st.sampled_from([1, 2, 6, 17, 30, 38]).map(lambda event: bytes((event,))),
    st.sampled_from([3, 4, 8, 22, 28, 29]).map(lambda event: bytes((event, *range(8)))),
    st.binary(max_size=40).map(lambda content: b"\x07\x00" + array(content)),
    st.binary(max_size=40).map(lambda content: b"\x09\x00" + dword(0) + array(content)),
    st.binary(max_size=40).map(lambda content: b"\x1b" + dword(0) + array(content)),
    st.sampled_from(
        [
            b"\x05" + dword(0) + dword(0) + bytes(9),
            b"\x05" + dword(0) + dword(1) + bytes(5),
            b"\x05" + dword(1) + bytes(5),
            b"\x05" + dword(2) + bytes(12),
        ]
    ),
)


def total(events: list[bytes]) -> int:
    return sum(int.from_bytes(event[1:], "big") for event in events if event[0] == log.INSTRUCTIONS)


@given(st.lists(EVENTS, max_size=30))
def test_the_instructions_of_a_complete_log_are_counted(events: list[bytes]) -> None:
    data = HEAD + b"".join(events) + END
    assert log.walk(data, True) == log.Log(total(events), len(data), True, True)


@given(st.lists(EVENTS, min_size=1, max_size=20), st.data())
def test_a_truncated_log_counts_up_to_its_last_complete_event(events: list[bytes], data: st.DataObject) -> None:
    whole = HEAD + b"".join(events) + END
    cut = data.draw(st.integers(len(HEAD), len(whole) - 1))
    found = log.walk(whole[:cut], True)
    assert not found.ended
    assert found.problem
    kept = b"".join(events) + END[:1]
    assert kept[: found.whole - len(HEAD)] == whole[len(HEAD) : found.whole]
    complete = [event for number, event in enumerate(events) if len(HEAD + b"".join(events[: number + 1])) <= cut]
    assert found.instructions == total(complete)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(content: bytes) -> None:
    found = log.walk(HEAD + content, True)
    assert found.whole <= len(HEAD) + len(content)


def test_a_log_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\x00\xe0\x20\x0d" + bytes(8) + END)
    with pytest.raises(RumplabError, match="has version 0xe0200d, not 0xe0200c"):
        log.read(path)


def test_the_log_of_a_killed_qemu_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(12) + instructions(7) + bytes((22, 0, 0)))
    found = log.read(path)
    assert (found.instructions, found.ended, found.version) == (7, False, False)
    log.mend(path, found)
    assert log.read(path) == log.Log(7, 12 + 5 + 2, True, True)


def test_what_follows_the_end_of_a_log_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = HEAD + instructions(5) + END
    path.write_bytes(whole + b"more")
    found = log.read(path)
    assert found.problem == "4 bytes follow its end"
    log.mend(path, found)
    assert path.read_bytes() == whole


def test_an_empty_log_has_no_instruction(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    assert log.read(path).instructions == 0


def test_instructions_after_the_guests_end_are_not_counted() -> None:
    """A guest that powers itself off executes some more instructions, which QEMU doesn't replay. A reset is no end."""
    off, reset = bytes((log.FIRST_SHUTDOWN + 6,)), bytes((log.FIRST_SHUTDOWN + 7,))
    content = HEAD + instructions(7) + reset + instructions(5) + off + instructions(3) + END
    assert log.walk(content, True).instructions == 12
    assert log.walk(HEAD + instructions(7) + reset + instructions(5) + END, True).instructions == 12
