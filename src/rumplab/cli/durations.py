"""How long something may take, as a command line says it."""

from __future__ import annotations

import argparse
import re

LONGEST = 24 * 3600


def seconds(text: str) -> float:
    """A number of seconds, of a day at most: no NaN, which no time ever reaches, and none before now."""
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) > LONGEST:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0 to {LONGEST}")
    return float(text)
