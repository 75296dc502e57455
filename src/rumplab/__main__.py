"""``python -m rumplab``."""

from __future__ import annotations

import sys

from rumplab.cli import main

sys.exit(main())
