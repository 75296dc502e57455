"""A file that the stager takes for a unikernel, of which nothing is ever executed."""

from __future__ import annotations

from unit.image.test_multiboot import header, placed

PROGRAM = placed(header(), 64) + b"content \xff\x00" * 50000
