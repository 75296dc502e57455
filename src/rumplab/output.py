"""Formats the tool's output: tables for people, JSON for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

# A message of the dynamic loader about an object in LD_PRELOAD that it can't load.
LOADER = re.compile(r"ERROR: ld\.so: .*: ignored\.$")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns the table as text, one line for each row. A column is as wide as its widest cell, two spaces separate
    columns, and no line ends in a blank."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def as_json(data: Any) -> str:
    """Returns `data` as JSON text. It is ASCII if `data` has a character that standard output can't encode."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(data, indent=2)
    return text


def printable(text: str) -> str:
    """Returns `text` of a guest, or of another user, without control characters, which a terminal would execute."""
    return "".join(character if character.isprintable() else "?" for character in text)


def own_lines(printed: str) -> list[str]:
    """Returns the lines of `printed` that come from the program itself, without the dynamic loader's messages."""
    return [line for line in printed.splitlines() if not LOADER.match(line)]


def shortened(printed: str, most: int, remedy: str = "") -> str:
    """Returns the first `most` lines of `printed` and the number of the lines left out: the later error messages of a
    compiler are mostly consequences of the first. `remedy` says how to see the rest."""
    lines = printed.rstrip().splitlines()
    left = len(lines) - most
    return "\n".join(lines[:most] + ([f"({left} more lines{remedy})"] if left > 0 else []))
