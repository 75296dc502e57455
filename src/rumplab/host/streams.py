"""Prepares standard input, output and error, in whatever state the caller left them.

- A closed stream becomes /dev/null. Otherwise the next opened file would get its number, and a child process would use
  that file as its stream.
- A character that the terminal's character set lacks is written as an escape.
- An error of writing to standard error is ignored, since nobody would see a message about it.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

STREAMS = (0, 1, 2)
OUTPUT = "standard output"


class StandardError(io.FileIO):
    """Standard error. It drops what it can't write."""

    def write(self, data: object) -> int:
        try:
            return super().write(data) or 0  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


class StandardOutput(io.FileIO):
    """Standard output. Its OSError, other than EPIPE, has OUTPUT as the file name."""

    def write(self, data: object) -> int:
        try:
            return super().write(data) or 0  # type: ignore[arg-type]
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise OSError(error.errno, os.strerror(error.errno or 0), OUTPUT) from error


def prepare() -> None:
    """Opens /dev/null for each closed stream, and sets sys.stdin, sys.stdout and sys.stderr. Call it once, at the
    start of the program."""
    for number in STREAMS:
        try:
            os.fstat(number)
        except OSError:
            # open(2) returns the lowest free number. That is `number`, since the lower ones are open by now.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, errors="surrogateescape")  # noqa: SIM115
    sys.stdout = writer(StandardOutput(1, "w", closefd=False), sys.stdout)
    sys.stderr = writer(StandardError(2, "w", closefd=False), sys.stderr, lines=True)


def writer(raw: io.FileIO, before: TextIO | None, lines: bool = False) -> io.TextIOWrapper:
    """Returns a text stream on `raw` with the encoding of `before`, the stream that it replaces."""
    encoding = before.encoding if before is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=lines or raw.isatty()
    )


def drop_output() -> None:
    """Redirects standard output to /dev/null, so that the flush at exit can't fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def script(text: str) -> None:
    """Prints `text`, commands for a shell. Writes file names as their original bytes: an escape would name another
    file."""
    stream = sys.stdout
    stream.flush()
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogateescape")
    stream.buffer.write(data)
    stream.buffer.flush()
