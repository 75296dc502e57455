"""Where a machine's console is: on its first serial port, or on the screen of its VGA card.

rumprun, and the lab's demo, choose by what the BIOS says: the screen if there is a display, else the serial port. So a
machine has a VGA card or hasn't, and that decides it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from rumplab.errors import NotProvisioned, RumplabError
from rumplab.host import child_environment
from rumplab.machine.boot_media import Media

AUTO, SERIAL, VGA = "auto", "serial", "vga"
CHOICES = (AUTO, SERIAL, VGA)
HELP_SECONDS = 20.0
CURSES = "curses"


def choose(wanted: str, found: Media) -> str:
    """SERIAL or VGA. AUTO is the serial port for a program and for an image that ``rumplab stage`` made, and the screen
    for any other disk or CD, since what was made for a PC shows itself there."""
    if wanted != AUTO:
        return wanted
    return SERIAL if found.format is None or found.staged else VGA


def check_terminal(emulator: str, provision: str, environment: Mapping[str, str] | None = None) -> None:
    """RumplabError unless the screen can be shown on this terminal, NotProvisioned where QEMU lacks what it takes."""
    environment = os.environ if environment is None else environment
    remedy = "or leave it in the background (--detach) and look at it with 'rumplab screen NAME'"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RumplabError(
            f"the console is the screen, which needs a terminal; run it on one, {remedy}, or use --console {SERIAL}"
        )
    if environment.get("TERM", "dumb") in ("", "dumb"):
        raise RumplabError(f"the screen can't be shown on a terminal without TERM; set it, {remedy}")
    if CURSES not in displays(emulator):
        raise NotProvisioned(
            f"{emulator} has no {CURSES} display, which shows the screen on a terminal; run: {provision} --tags qemu;"
            f" {remedy}"
        )


def displays(emulator: str) -> list[str]:
    """The displays that QEMU can show a screen on. RumplabError when it doesn't say."""
    # Only here: few starts need it.
    import subprocess

    try:
        result = subprocess.run(
            [emulator, "-display", "help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HELP_SECONDS,
            check=False,
            env=child_environment.of(child_environment.QEMU),
        )
    except subprocess.TimeoutExpired as error:
        raise RumplabError(f"'{emulator} -display help' did not end within {HELP_SECONDS:.0f} s") from error
    return result.stdout.split()
