"""The errors a user sees. Each names the thing that is wrong and what to do about it."""

from __future__ import annotations


class RumplabError(Exception):
    """The verb could not do its work (exit code 1)."""

    exit_code = 1


class UsageError(RumplabError):
    """The command line asks for something that makes no sense (exit code 2)."""

    exit_code = 2


class NotProvisioned(RumplabError):
    """A component that the verb needs is not on this host (exit code 3)."""

    exit_code = 3
