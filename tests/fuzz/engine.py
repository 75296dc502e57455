"""Gives a reader its inputs, each within bounds of time and memory, and keeps the one that it can't bear."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from fuzz.mutations import Mutation, binary

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "fuzz"
# Of the processor's time, for one input: on a busy machine too, a hundred times what the slowest takes.
SECONDS = 3.0
# For whoever waits without using the processor.
WALL_SECONDS = 60.0
# What the process may grow by, in bytes: far beyond the longest input, and beyond what is read at once anywhere.
MEMORY = 192 << 20
# What is said of a failure makes shorter inputs of it, for so many seconds.
SHRINKING = 5.0


@dataclass(frozen=True)
class Reader:
    """Something that reads what others write.

    `read` gets an input and an empty directory; `samples` are good inputs, and `errors` what `read` may raise for
    others. An input of several `packets`, which others write one after the other, counts as so many.
    """

    name: str
    read: Callable[[bytes, Path], object]
    samples: Sequence[bytes]
    errors: tuple[type[BaseException], ...] = ()
    mutation: Mutation = field(default_factory=binary)
    packets: int = 1


class TooSlow(BaseException):
    """No Exception, so that no reader takes it for one of its own."""


def too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow("it took too long")


def size() -> int:
    """How large this process's address space is, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """While this lasts, the process grows by no more than MEMORY, and its timers raise TooSlow."""
    handlers = {kind: signal.signal(kind, too_slow) for kind in (signal.SIGPROF, signal.SIGALRM)}
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform.startswith("linux"):
        resource.setrlimit(resource.RLIMIT_AS, (size() + MEMORY, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        for kind, handler in handlers.items():
            signal.signal(kind, handler)


def failure(reader: Reader, data: bytes, place: Path) -> BaseException | None:
    """What `reader` makes of `data`, if that is nothing that it may; within `bounded`."""
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(data, place)
    except reader.errors:
        return None
    except (Exception, TooSlow) as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def origin(error: BaseException) -> tuple[object, ...]:
    """What tells one failure from another: its type, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return (type(error), frames[-1].filename, frames[-1].lineno) if frames else (type(error),)


def shrunk(reader: Reader, data: bytes, place: Path, error: BaseException) -> bytes:
    """A shorter input that fails in the same way, as far as one is found in time."""
    wanted, end = origin(error), time.monotonic() + SHRINKING
    piece = len(data) // 2
    while piece and not isinstance(error, TooSlow):
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + piece :]
            found = failure(reader, shorter, place)
            if found is not None and origin(found) == wanted:
                data = shorter
            else:
                at += piece
            if time.monotonic() > end:
                return data
        piece //= 2
    return data


def inputs(reader: Reader, seed: int, count: int) -> Iterator[bytes]:
    """The `count` inputs that `seed` stands for."""
    random = Random(seed)
    return (reader.mutation(random, reader.samples) for _ in range(count))


def check(reader: Reader, data: Iterator[bytes], place: Path) -> None:
    """AssertionError, with an input that shows it, where `reader` fails on one of `data`."""
    with bounded():
        for one in data:
            error = failure(reader, one, place)
            if error is not None:
                one = shrunk(reader, one, place, error)
                break
        else:
            return
    raise AssertionError(report(reader, one, error)) from error


def report(reader: Reader, data: bytes, error: BaseException) -> str:
    """What to say of an input, which is kept in a file."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{reader.name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    shown = data[:200].hex() + ("…" if len(data) > 200 else "")
    where = os.path.relpath(path, ROOT)
    return (
        f"{reader.name} ends in {type(error).__name__}: {str(error)[:500]}\n"
        f"on {len(data)} bytes: {shown}\n"
        f"again: RUMPLAB_FUZZ_INPUT={where} .venv/bin/pytest tests/fuzz -k 'bears and {reader.name}'"
    )
