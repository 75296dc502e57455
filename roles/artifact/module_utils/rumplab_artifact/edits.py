"""Source edits: data that says what to change in a pristine upstream file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import Broken


def edit_text(text: str, edit: Mapping[str, str], where: str) -> str:
    """Return `text` with the edit's anchor replaced.

    `edit` has `name`, `anchor` (a Python regular expression, MULTILINE and DOTALL) and `replacement` (which may
    name groups as ``\\g<1>``). The anchor must match exactly once, or Broken is raised, naming edit and file.
    """
    try:
        anchor = re.compile(edit["anchor"], re.MULTILINE | re.DOTALL)
    except re.error as error:
        raise Broken(f"edit '{edit['name']}': the anchor is not a regular expression: {error}") from error
    matches = list(anchor.finditer(text))
    if len(matches) != 1:
        lines = ", ".join(str(text.count("\n", 0, match.start()) + 1) for match in matches) or "nowhere"
        raise Broken(
            f"edit '{edit['name']}' must match exactly once in {where}, but matches {len(matches)} times ({lines}). "
            f"The anchor is: {edit['anchor']}"
        )
    try:
        replacement = matches[0].expand(edit["replacement"])
    except (re.error, IndexError) as error:
        raise Broken(f"edit '{edit['name']}': the replacement can't be filled in: {error}") from error
    return text[: matches[0].start()] + replacement + text[matches[0].end() :]


def apply_edits(source: str, edits: Sequence[Mapping[str, Any]]) -> None:
    """Apply the edits, in order, to the files below the directory `source`; bytes that no edit names stay."""
    root = os.path.realpath(source)
    for edit in edits:
        path = os.path.realpath(os.path.join(root, edit["file"]))
        if not path.startswith(root + os.sep):
            raise Broken(f"edit '{edit['name']}' names a file outside the source: {edit['file']}")
        try:
            # Upstream files hold Latin-1 and worse; surrogateescape gives back every byte as it was.
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
                text = stream.read()
        except FileNotFoundError as error:
            raise Broken(
                f"edit '{edit['name']}' wants to change {edit['file']}, which this source doesn't have"
            ) from error
        changed = edit_text(text, edit, edit["file"])
        mode = stat.S_IMODE(os.stat(path).st_mode)
        # Some upstreams release their files read-only.
        os.chmod(path, mode | stat.S_IWUSR)
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(changed)
        os.chmod(path, mode)
