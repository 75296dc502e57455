"""Turns a tool's error messages into remedies for the user."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Mapping

# Patterns of a tool's messages, and the remedy for each. The first pattern that matches counts.
SIGNS = (
    (re.escape(os.strerror(errno.ENOSPC)), "the disk is full; free some space there"),
    (r"signal: killed", "the host ran out of memory"),
    (
        r"can(?:no|')t find -l([^\s:]+)",
        "there is no library {0} for the unikernel, and the host's can't be used: build one with {gcc}, and give its"
        " directory with -L",
    ),
    (
        r"fatal error: (\S+): No such file or directory",
        "there is no header {0} for the unikernel, and the host's can't be used: give its directory with -I",
    ),
    (
        r'cannot find package "([^"]+)"',
        "package {0} is neither in a vendor directory of the program nor in GOPATH, and this Go, which is older"
        " than modules, looks nowhere else; add it with 'go mod vendor' or 'git clone'",
    ),
    (
        r"redefinition of .gomaincaller|gomaincaller redeclared",
        "build adds gomaincaller() and the C main() that calls it: remove the program's own",
    ),
    (
        r"undefined reference to [`']([^'`]+)'",
        "no linked library defines {0}: a library is missing (-l), or rumprun has no such function",
    ),
)


MEANINGS: dict[int, str] = {
    signal.SIGXFSZ: ": a file exceeded this account's size limit (ulimit -f)",
    signal.SIGXCPU: ": it used more processor time than this account's limit (ulimit -t)",
}
UPWARDS = re.compile(r"(?<![^\s\"'(\[])(?:\.\./)+")


def own_words(text: str, directory: str, own: Mapping[str, str], relative: Mapping[str, str]) -> str:
    """The output `text` of a command that ran in `directory`, with the work directory's paths replaced by the user's.

    `own` maps directories. `relative` maps names of files that appear without a directory, before a colon.
    """
    # Go prints relative paths where they are shorter.
    text = UPWARDS.sub(lambda found: os.path.normpath(os.path.join(directory, found[0])).rstrip("/") + "/", text)
    for theirs in sorted(own, key=len, reverse=True):
        text = re.sub(rf"{re.escape(theirs)}(?![\w.-])", own[theirs].replace("\\", r"\\"), text)
    names = "|".join(map(re.escape, relative))
    if names:
        text = re.sub(rf"(?<![\w./-])(?:\./)?({names})(?=:[ \d])", lambda found: relative[found[1]], text)
    return text


def heading(path: str) -> str:
    """A package's path as it appears in go's headings: go replaces the characters that an import path can't contain."""
    return re.sub(r"[^\w/.~-]", "_", path)


def remedy(said: str, gcc: str) -> str:
    """The remedy for the error messages in `said`; '' when no pattern matches."""
    for sign, words in SIGNS:
        found = re.search(sign, said)
        if found:
            return words.format(*found.groups(), gcc=os.path.basename(gcc))
    return ""


def ending(code: int) -> str:
    """A description of how a command ended. `code` is subprocess's return code."""
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}{MEANINGS.get(-code, '')}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"exit status {code}"
