"""Whether there is room for what a guest starts from."""

from __future__ import annotations

import shutil
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.image.layout import MIB


def check(directory: Path, needed: int, what: str) -> None:
    """RumplabError when `directory` has less than `needed` bytes left for `what`."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RumplabError(
            f"no space left in {directory}: {what} takes {-(-needed // MIB)} MiB, and {free // MIB} MiB are free;"
            " free some space"
        )
