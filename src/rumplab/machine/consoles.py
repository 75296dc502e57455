"""Chooses a machine's console: its first serial port, or the screen of its VGA card.

rumprun and the lab's demo ask the BIOS: if it reports a display, they write to the screen, otherwise to the serial
port. So the machine gets a VGA card only if its console is the screen.
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
    """Returns SERIAL or VGA. AUTO means SERIAL for a program and for an image that ``rumplab stage`` made, and VGA for
    any other image, since a system for PCs writes to the screen."""
    if wanted != AUTO:
        return wanted
    return SERIAL if found.format is None or found.staged else VGA


def check_terminal(emulator: str, provision: str, environment: Mapping[str, str] | None = None) -> None:
    """Raises RumplabError if this terminal can't show the screen, NotProvisioned if QEMU has no curses display."""
    environment = os.environ if environment is None else environment
    remedy = "or run the machine in the background (--detach) and print its screen with 'rumplab screen NAME'"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RumplabError(
            f"the console is the screen, which needs a terminal; run this on a terminal, {remedy}, or use"
            f" --console {SERIAL}"
        )
    if environment.get("TERM", "dumb") in ("", "dumb"):
        raise RumplabError(f"the screen can't be shown on a terminal without TERM; set TERM, {remedy}")
    if CURSES not in displays(emulator):
        raise NotProvisioned(
            f"{emulator} has no {CURSES} display, which shows the screen on a terminal; run: {provision} --tags qemu;"
            f" {remedy}"
        )


def displays(emulator: str) -> list[str]:
    """Returns the words that ``QEMU -display help`` prints, the names of its displays among them. RumplabError if QEMU
    doesn't end in time."""
    # Imported here because few starts need it.
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
        raise RumplabError(
            f"'{emulator} -display help' did not end within {HELP_SECONDS:.0f} s; is the host busy?"
        ) from error
    return result.stdout.split()
