"""Source edits: data that says what to replace in an upstream's file, append to it, or create as a new file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import Broken

# The key that says what an edit does; each edit has exactly one of these.
KINDS = ("replacement", "append", "create")


def _matches(edit: Mapping[str, str], key: str, text: str) -> list[re.Match[str]]:
    try:
        pattern = re.compile(edit[key], re.MULTILINE | re.DOTALL)
    except re.error as error:
        raise Broken(f"edit '{edit['name']}': the {key} is not a regular expression: {error}") from error
    return list(pattern.finditer(text))


def _lines(matches: Sequence[re.Match[str]], text: str) -> str:
    return ", ".join(str(text.count("\n", 0, match.start()) + 1) for match in matches) or "nowhere"


def edit_text(text: str, edit: Mapping[str, str], where: str) -> str:
    """Return `text` with the edit's anchor replaced.

    `edit` has `name`, `anchor` (a Python regular expression, MULTILINE and DOTALL) and `replacement` (which may
    name groups as ``\\g<1>``). The anchor must match exactly once, or Broken is raised, naming edit and file.
    """
    matches = _matches(edit, "anchor", text)
    if len(matches) != 1:
        raise Broken(
            f"edit '{edit['name']}' must match exactly once in {where}, but matches {len(matches)} times "
            f"({_lines(matches, text)}). The anchor is: {edit['anchor']}"
        )
    try:
        replacement = matches[0].expand(edit["replacement"])
    except (re.error, IndexError) as error:
        raise Broken(f"edit '{edit['name']}': the replacement can't be filled in: {error}") from error
    return text[: matches[0].start()] + replacement + text[matches[0].end() :]


def append_text(text: str, edit: Mapping[str, str], where: str) -> str:
    """Return `text` with the edit's `append` after its last line.

    An edit may have a regular expression `absent`. Broken if it matches: upstream has then made the change itself.
    """
    found = _matches(edit, "absent", text) if edit.get("absent") else []
    if found:
        raise Broken(
            f"edit '{edit['name']}' appends to {where} what it already has ({_lines(found, text)}): "
            f"nothing in it may match {edit['absent']}"
        )
    return text + ("" if not text or text.endswith("\n") else "\n") + edit["append"]


def edited(text: str | None, edit: Mapping[str, str], where: str) -> str:
    """Return the new text of the file `where`; `text` is its present text, None if the source has no such file.

    An edit has `anchor` and `replacement`, or `append`, or `create`, the text of a file that must not exist yet.
    """
    kinds = [kind for kind in KINDS if edit.get(kind) is not None]
    if len(kinds) != 1:
        raise Broken(f"edit '{edit['name']}' must have one of {', '.join(KINDS)}; it has {', '.join(kinds) or 'none'}")
    if kinds == ["create"]:
        if text is not None:
            raise Broken(f"edit '{edit['name']}' creates {where}, which this source already has")
        return edit["create"]
    if text is None:
        raise Broken(f"edit '{edit['name']}' changes {where}, which this source doesn't have")
    return append_text(text, edit, where) if kinds == ["append"] else edit_text(text, edit, where)


def apply_edits(source: str, edits: Sequence[Mapping[str, Any]]) -> None:
    """Apply the edits, in order, to the files below the directory `source`; all other bytes stay as they are."""
    root = os.path.realpath(source)
    for edit in edits:
        path = os.path.realpath(os.path.join(root, edit["file"]))
        if not path.startswith(root + os.sep):
            raise Broken(f"edit '{edit['name']}' names a file outside the source: {edit['file']}")
        try:
            # Upstreams' files aren't all UTF-8; surrogateescape preserves every byte.
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
                text: str | None = stream.read()
        except FileNotFoundError:
            text = None
        changed = edited(text, edit, edit["file"])
        if text is None:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            mode = 0o644
        else:
            mode = stat.S_IMODE(os.stat(path).st_mode)
            # Some upstreams release their files read-only.
            os.chmod(path, mode | stat.S_IWUSR)
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(changed)
        os.chmod(path, mode)
