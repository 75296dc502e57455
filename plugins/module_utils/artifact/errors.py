"""The two kinds of failure of an artefact: one allows the next candidate, the other ends the run."""

from __future__ import annotations


class Unreachable(Exception):
    """A candidate can't be fetched (no such host, refused, timed out, cut off, 404, 5xx); the next one is tried."""


class Broken(Exception):
    """An error that a retry doesn't fix: a wrong hash, an edit that doesn't match, a failed build."""

    def __init__(self, message: str, log: str | None = None) -> None:
        super().__init__(message)
        self.log = log
