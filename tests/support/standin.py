"""The content of a file that the stager accepts as a unikernel. No test executes it."""

from __future__ import annotations

from unit.image.test_multiboot import header, placed

PROGRAM = placed(header(), 64) + b"content \xff\x00" * 50000
