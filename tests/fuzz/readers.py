"""Everything here that reads what others write; docs/development/testing.md says what isn't in it, and why."""

from __future__ import annotations

from fuzz import formats, protocols, records, tools
from fuzz.engine import Reader

READERS: tuple[Reader, ...] = (*records.READERS, *formats.READERS, *protocols.READERS, *tools.READERS)
