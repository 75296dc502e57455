"""The two ways in which an artefact can fail, and why they differ."""

from __future__ import annotations


class Unreachable(Exception):
    """A candidate could not be had: name resolution, refused, timed out, cut off, 404, 5xx. The next one is tried."""


class Broken(Exception):
    """Something is wrong that another try won't mend: a wrong hash, an edit that doesn't match, a failed build."""

    def __init__(self, message: str, log: str | None = None) -> None:
        super().__init__(message)
        self.log = log
