"""Tables and JSON for people and programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

LOADER = re.compile(r"ERROR: ld\.so: .*: ignored\.$")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The table as text: one line per row, no trailing blanks. Each column is as wide as its widest cell, and two
    spaces separate the columns."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def as_json(data: Any) -> str:
    """`data` as JSON text for another program. The text is ASCII if standard output's encoding can't represent it."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(data, indent=2)
    return text


def own_lines(said: str) -> list[str]:
    """The lines of `said` that the program itself printed, without the dynamic loader's warnings about libraries that
    it ignores."""
    return [line for line in said.splitlines() if not LOADER.match(line)]


def shortened(said: str, most: int, remedy: str = "") -> str:
    """The first `most` lines of `said`, then a line with the number of lines left out. Late error messages are mostly
    consequences of the first ones. `remedy` is appended to that number and tells how to see all lines."""
    lines = said.rstrip().splitlines()
    left = len(lines) - most
    return "\n".join(lines[:most] + ([f"({left} more lines{remedy})"] if left > 0 else []))
