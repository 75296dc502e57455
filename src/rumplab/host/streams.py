"""Standard input, output and error as they have to be, whatever the caller left of them.

A stream that is closed counts as /dev/null: else the next file that is opened gets its number, and a program that is
started then takes that for its own. What the terminal's character set lacks is written as an escape. Nobody need hear
what goes wrong: standard error that can't be written to is no failure.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

STREAMS = (0, 1, 2)
OUTPUT = "standard output"


class Spoken(io.FileIO):
    """Standard error: what it can't take is dropped."""

    def write(self, data: object) -> int:
        try:
            return super().write(data) or 0  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


class Told(io.FileIO):
    """Standard output: an error of its own says that it is that."""

    def write(self, data: object) -> int:
        try:
            return super().write(data) or 0  # type: ignore[arg-type]
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise OSError(error.errno, os.strerror(error.errno or 0), OUTPUT) from error


def prepare() -> None:
    """Opens what is closed, and makes Python's own streams of what there is. For a program's start, once."""
    for number in STREAMS:
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one: those before it are open by now.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, errors="surrogateescape")  # noqa: SIM115
    sys.stdout = writer(Told(1, "w", closefd=False), sys.stdout)
    sys.stderr = writer(Spoken(2, "w", closefd=False), sys.stderr, lines=True)


def writer(raw: io.FileIO, before: TextIO | None, lines: bool = False) -> io.TextIOWrapper:
    """A text stream on `raw` in the place of `before`, with the character set that it had."""
    encoding = before.encoding if before is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=lines or raw.isatty()
    )


def drop_output() -> None:
    """From here on, nobody reads standard output, and what waits to be written is no error when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def script(text: str) -> None:
    """Prints `text` for a shell: with the bytes that names have, which no escape would stand for."""
    stream = sys.stdout
    stream.flush()
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogateescape")
    stream.buffer.write(data)
    stream.buffer.flush()
