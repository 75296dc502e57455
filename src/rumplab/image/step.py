"""One command of a recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One command. `quiet`: it says nothing on standard error but its version unless something is wrong."""

    argv: tuple[str, ...]
    stdin: str = ""
    quiet: bool = False
