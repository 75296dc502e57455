"""The errors that a user sees. Each message names the thing that is wrong and the remedy."""

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
