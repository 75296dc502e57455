"""From what a tool says to what its user can do."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Mapping

# What a tool says, and what that means here; the first that fits counts.
SIGNS = (
    (re.escape(os.strerror(errno.ENOSPC)), "the disk is full; free some space there"),
    (r"signal: killed", "the host ran out of memory"),
    (
        r"can(?:no|')t find -l([^\s:]+)",
        "there is no library {0} for the unikernel; the host's doesn't serve: build one with {gcc}, and give its"
        " directory with -L",
    ),
    (
        r"fatal error: (\S+): No such file or directory",
        "there is no header {0} for the unikernel; the host's don't serve: give the directory of one with -I",
    ),
    (
        r'cannot find package "([^"]+)"',
        "package {0} is neither in a vendor directory of the program nor in GOPATH, and this Go, which is older"
        " than modules, looks nowhere else; 'go mod vendor' or 'git clone' puts it there",
    ),
    (
        r"redefinition of .gomaincaller|gomaincaller redeclared",
        "build adds gomaincaller() and the C main() that calls it: remove the program's own",
    ),
    (
        r"undefined reference to [`']([^'`]+)'",
        "nothing linked in has {0}: a library is missing (-l), or rumprun has no such function",
    ),
)


MEANINGS: dict[int, str] = {
    signal.SIGXFSZ: ": a file was to become larger than this account's limit (ulimit -f)",
    signal.SIGXCPU: ": it used more processor time than this account's limit (ulimit -t)",
}
UPWARDS = re.compile(r"(?<![^\s\"'(\[])(?:\.\./)+")


def own_words(text: str, directory: str, own: Mapping[str, str], relative: Mapping[str, str]) -> str:
    """What a command says in `directory`, with the user's paths in the place of those of the work directory.

    `own` maps directories. `relative` maps names of files that stand without a directory, before a colon.
    """
    # Go shortens what it can.
    text = UPWARDS.sub(lambda found: os.path.normpath(os.path.join(directory, found[0])).rstrip("/") + "/", text)
    for theirs in sorted(own, key=len, reverse=True):
        text = re.sub(rf"{re.escape(theirs)}(?![\w.-])", own[theirs].replace("\\", r"\\"), text)
    names = "|".join(map(re.escape, relative))
    if names:
        text = re.sub(rf"(?<![\w./-])(?:\./)?({names})(?=:[ \d])", lambda found: relative[found[1]], text)
    return text


def heading(path: str) -> str:
    """A package's path in the form that identifies it in go's headings, where go replaces what imports can't hold."""
    return re.sub(r"[^\w/.~-]", "_", path)


def remedy(said: str, gcc: str) -> str:
    """What the user can do about `said`; empty where that is plain enough."""
    for sign, words in SIGNS:
        found = re.search(sign, said)
        if found:
            return words.format(*found.groups(), gcc=os.path.basename(gcc))
    return ""


def ending(code: int) -> str:
    """How a command ended that had exit status `code`, as subprocess gives it."""
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}{MEANINGS.get(-code, '')}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"exit status {code}"
