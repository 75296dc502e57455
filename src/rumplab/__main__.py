"""``python -m rumplab``."""

from __future__ import annotations

import sys

from rumplab.cli import program

sys.exit(program(sys.argv[1:]))
