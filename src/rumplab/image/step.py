"""One command of a recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One command. `quiet` tells that its standard error has only its version unless it fails."""

    argv: tuple[str, ...]
    stdin: str = ""
    quiet: bool = False
