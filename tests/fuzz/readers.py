"""All readers of untrusted input. docs/development/testing.md says which are left out, and why."""

from __future__ import annotations

from fuzz import formats, protocols, recordings, records, tools
from fuzz.engine import Reader

READERS: tuple[Reader, ...] = (
    *records.READERS,
    *formats.READERS,
    *protocols.READERS,
    *tools.READERS,
    *recordings.READERS,
)
