"""The two ways in which an artefact can fail, and why they differ."""

from __future__ import annotations

import json
from typing import IO, Any

# What comes of a file that was damaged: it isn't JSON, or isn't made of what it should be.
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class Unreachable(Exception):
    """A candidate could not be had: name resolution, refused, timed out, cut off, 404, 5xx. The next one is tried."""


class Broken(Exception):
    """Something is wrong that another try won't mend: a wrong hash, an edit that doesn't match, a failed build."""

    def __init__(self, message: str, log: str | None = None) -> None:
        super().__init__(message)
        self.log = log


def parsed(stream: IO[str]) -> Any:
    """Return the JSON in a file; ValueError for what is none, and for what is nested too deeply to be read."""
    try:
        return json.load(stream)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
