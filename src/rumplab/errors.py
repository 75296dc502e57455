"""The errors that a user sees. Each message names what is wrong and what to do about it."""

from __future__ import annotations


class RumplabError(Exception):
    """The verb failed (exit code 1)."""

    exit_code = 1


class UsageError(RumplabError):
    """The command line is wrong (exit code 2)."""

    exit_code = 2


class NotProvisioned(RumplabError):
    """A component that the verb needs is not on this host (exit code 3)."""

    exit_code = 3
