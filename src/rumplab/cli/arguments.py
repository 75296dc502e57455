"""Types of several commands' arguments."""

from __future__ import annotations

import argparse
import re

from rumplab.host import ports
from rumplab.machine import macs

# The longest time, in seconds.
LONGEST = 24 * 3600


def memory(text: str) -> str:
    """A size for QEMU's -m: a number of MiB, or with one of the suffixes M and G."""
    if not re.fullmatch(r"[1-9][0-9]*[MG]?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a memory size; use for example 128M or 1G")
    return text


def seconds(text: str) -> float:
    """A number of seconds, of a day at most: no NaN, which no time ever reaches, and none before now."""
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) > LONGEST:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0 to {LONGEST}")
    return float(text)


def mac(text: str) -> str:
    """An Ethernet address of one card."""
    try:
        return macs.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def port(text: str) -> int:
    """A port's number, from 1 to 65535."""
    return _port(text, 1)


def unprivileged_port(text: str) -> int:
    """The number of a port that needs no privilege to listen on, from 1024 to 65535."""
    return _port(text, ports.FIRST_UNPRIVILEGED)


def _port(text: str, first: int) -> int:
    if not re.fullmatch("[0-9]{1,5}", text, re.ASCII) or not first <= int(text) <= ports.LAST_PORT:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port; use a number from {first} to {ports.LAST_PORT}")
    return int(text)
