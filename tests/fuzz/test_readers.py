"""No reader of untrusted input raises an undeclared exception, hangs, or uses much more memory than its input has."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz import engine
from fuzz.engine import Reader
from fuzz.readers import READERS

ALL = bool(os.environ.get("RUMPLAB_TEST_ALL"))
COUNT = int(os.environ.get("RUMPLAB_FUZZ") or (1_000_000 if ALL else 10_000))
INPUT = os.environ.get("RUMPLAB_FUZZ_INPUT")
# Inputs for each seed. Hypothesis takes more time to generate one example than most readers to read one input.
BATCH = 500


@pytest.fixture(params=READERS, ids=lambda reader: reader.name)
def reader(request: pytest.FixtureRequest) -> Reader:
    found: Reader = request.param
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory in memory: a file system on a disk takes ten times as long as most readers."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="rumplab-fuzz-", dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


def test_samples_are_good(reader: Reader, place: Path) -> None:
    """Inputs made of an invalid sample would fail at the first check."""
    for sample in reader.samples:
        reader.read(sample, place)


def test_reader_bears_what_others_write(reader: Reader, place: Path) -> None:
    if INPUT:
        engine.check(reader, iter([Path(INPUT).read_bytes()]), place)
        return

    count = max(COUNT // reader.packets, 1)

    # The inputs are the same in each run, so that only a change of the code makes a test fail. With --all they differ.
    @settings(
        max_examples=max(count // BATCH, 1),
        derandomize=not ALL,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64 - 1))
    def batches(seed: int) -> None:
        engine.check(reader, engine.inputs(reader, seed, min(BATCH, count)), place)

    batches()


def test_some_of_what_others_write_is_still_read(reader: Reader, place: Path) -> None:
    """If a reader refused all inputs, the code after its first check would never run."""
    good = 0
    for data in engine.inputs(reader, 1, 400):
        with contextlib.suppress(*reader.errors):
            reader.read(data, place)
            good += 1
    assert good >= 4


def believes_a_length(data: bytes, place: Path) -> object:
    return bytes(int.from_bytes(data[:4], "little"))


def takes_an_index(data: bytes, place: Path) -> object:
    return data[data[0]]


def never_ends(data: bytes, place: Path) -> object:
    while data != b"sample of eight":
        pass
    return None


@pytest.mark.parametrize(
    ("read", "kind"),
    [(believes_a_length, "MemoryError"), (takes_an_index, "IndexError"), (never_ends, "TooSlow")],
)
def test_fault_in_a_reader_is_found(
    read: Callable[[bytes, Path], object], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failing input is written to a file, shortened."""
    monkeypatch.setattr(engine, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(engine, "SECONDS", 0.2)
    reader = Reader("faulty", read, [b"\0\0\0\0sample of eight"])
    with pytest.raises(AssertionError, match=f"faulty ends in {kind}"):
        engine.check(reader, engine.inputs(reader, 1, 10_000), tmp_path)
    (kept,) = (tmp_path / "kept").iterdir()
    with pytest.raises(AssertionError, match=kind):
        engine.check(reader, iter([kept.read_bytes()]), tmp_path)
    if kind == "IndexError":
        assert len(kept.read_bytes()) <= 1


def test_inputs_depend_on_their_seed_alone(reader: Reader) -> None:
    assert list(engine.inputs(reader, 7, 20)) == list(engine.inputs(reader, 7, 20))
    assert len(set(engine.inputs(reader, Random(7).randrange(99), 50))) > 10
