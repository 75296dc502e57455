"""Run a reader on its inputs with limits of time and memory, and write an input that makes it fail to a file."""

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
# CPU seconds for one input: a hundred times what the slowest reader needs. CPU time doesn't depend on other load.
SECONDS = 3.0
# Wall-clock seconds for one input, for a reader that waits without using the CPU.
WALL_SECONDS = 60.0
# Bytes by which the process may grow: much more than the longest input, and than any reader reads at once.
MEMORY = 192 << 20
# Seconds to look for a shorter input that fails in the same way.
SHRINKING = 5.0


@dataclass(frozen=True)
class Reader:
    """A function that reads untrusted input.

    `read` gets an input and an empty directory. `samples` are valid inputs, and `errors` are the exceptions that `read`
    may raise for other inputs. An input of several `packets` counts as that many inputs.
    """

    name: str
    read: Callable[[bytes, Path], object]
    samples: Sequence[bytes]
    errors: tuple[type[BaseException], ...] = ()
    mutation: Mutation = field(default_factory=binary)
    packets: int = 1


class TooSlow(BaseException):
    """A reader took too long. It isn't an Exception, so that readers don't catch it."""


def too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow(f"the limit is {SECONDS} CPU seconds, or {WALL_SECONDS} s")


def size() -> int:
    """Return the size of this process's address space in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Limit the growth of this process to MEMORY, and make its interval timers raise TooSlow."""
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
    """Run `reader` on `data`, inside `bounded`. Return the exception if it isn't one of `reader.errors`, else None."""
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
    """Return a key for a failure: the type of the exception, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return (type(error), frames[-1].filename, frames[-1].lineno) if frames else (type(error),)


def shrunk(reader: Reader, data: bytes, place: Path, error: BaseException) -> bytes:
    """Return the shortest input found within SHRINKING seconds that fails with the same origin."""
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
    """Yield `count` inputs, which depend only on `seed`."""
    random = Random(seed)
    return (reader.mutation(random, reader.samples) for _ in range(count))


def check(reader: Reader, data: Iterator[bytes], place: Path) -> None:
    """Raise AssertionError, with the shortened input, if `reader` fails on one of `data`."""
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
    """Write a failing input to a file in KEPT, and return a message that names the file."""
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
