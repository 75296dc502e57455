"""argparse types that several commands use. Each raises ArgumentTypeError for a value that it refuses."""

from __future__ import annotations

import argparse
import re

from rumplab.host import ports
from rumplab.machine import macs

# The longest time that an option takes, in seconds.
LONGEST = 24 * 3600


def memory(text: str) -> str:
    """Returns `text`, a size for QEMU's -m: a number of MiB, or a number with the suffix M or G."""
    if not re.fullmatch(r"[1-9][0-9]*[MG]?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a memory size; use for example 128M or 1G")
    return text


def seconds(text: str) -> float:
    """Returns `text` as seconds, from 0 to one day. It refuses NaN, since a comparison with NaN never ends a wait."""
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) > LONGEST:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0 to {LONGEST}; use one, as 2.5")
    return float(text)


def mac(text: str) -> str:
    """Returns `text` as the Ethernet address of one card, in the form of macs.parse."""
    try:
        return macs.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def port(text: str) -> int:
    """Returns `text` as a port number from 1 to 65535."""
    return _port(text, 1)


def unprivileged_port(text: str) -> int:
    """Returns `text` as a port number from 1024 to 65535, on which a process can listen without privileges."""
    return _port(text, ports.FIRST_UNPRIVILEGED)


def _port(text: str, first: int) -> int:
    if not re.fullmatch("[0-9]{1,5}", text, re.ASCII) or not first <= int(text) <= ports.LAST_PORT:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port; use a number from {first} to {ports.LAST_PORT}")
    return int(text)
