"""Tables and JSON for people and programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

LOADER = re.compile(r"ERROR: ld\.so: .*: ignored\.$")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart; one line a row, no trailing blanks."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def as_json(data: Any) -> str:
    """`data` as JSON text for another program, in ASCII where it holds what standard output can't say."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(data, indent=2)
    return text


def own_lines(said: str) -> list[str]:
    """The lines that a program has said itself: not those of the loader, which tells what it passes over."""
    return [line for line in said.splitlines() if not LOADER.match(line)]


def shortened(said: str, most: int, remedy: str = "") -> str:
    """The first `most` lines of `said`, and how many there are besides: after many complaints, further ones are
    mostly their consequences. `remedy` tells how to see those."""
    lines = said.rstrip().splitlines()
    left = len(lines) - most
    return "\n".join(lines[:most] + ([f"({left} more lines{remedy})"] if left > 0 else []))
