"""``rumplab screen``: prints a machine's VGA screen as text, or saves it as a picture."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from rumplab import output
from rumplab.errors import RumplabError
from rumplab.lab import config
from rumplab.machine import vga_text
from rumplab.machine.registry import Machine, open_machines
from rumplab.machine.screen import Screen, graphics, look

EPILOG = """\
Prints what the VGA card shows now, in text mode. A machine without a VGA card has its console on the serial port: see
'rumplab logs'. A guest of 'rumplab guest' has both.

examples:
  rumplab screen ipxe
  rumplab screen ipxe --follow            until the machine ends, or Ctrl-C
  rumplab screen ipxe --png screen.png    its picture, in graphics mode too
  rumplab screen ipxe --json
"""
POLL_SECONDS = 0.3
TO_THE_TOP, TO_LINE_END, TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("--png", metavar="FILE", type=Path, help="save the screen as a picture, print no text")
    parser.add_argument("-f", "--follow", action="store_true", help="print the screen again whenever it changes")
    parser.add_argument("--json", action="store_true", help="print JSON; with --follow, a line each time")


def described(machine: Machine, screen: Screen, png: Path | None) -> dict[str, Any]:
    """Returns the screen's data for --json. `png` is the file in which its picture was saved."""
    return {
        "name": machine.name,
        "mode": "graphics" if screen.rows is None else "text",
        "width": screen.picture.width,
        "height": screen.picture.height,
        "columns": screen.columns,
        "rows": None if screen.rows is None else list(screen.rows),
        "png": None if png is None else os.path.abspath(png),
    }


def save(screen: Screen, path: Path) -> None:
    """Writes the picture to `path` as PNG. Replaces the file in one step. RumplabError if that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(vga_text.png(screen.picture))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RumplabError(f"cannot write {path}: {error.strerror}; choose another place with --png") from error


def run(args: argparse.Namespace) -> int:
    machine = open_machines(config.load()).find(args.name)
    if args.follow:
        return follow(machine, args)
    screen = look(machine)
    if args.png is not None:
        save(screen, args.png)
    if args.json:
        print(output.as_json(described(machine, screen, args.png)))
    elif args.png is None:
        if screen.rows is None:
            raise RumplabError(
                f"{machine.name}'s screen is in {graphics(screen.picture)}, and has no text; save a picture of it with:"
                f" rumplab screen {machine.name} --png FILE"
            )
        print(screen.text)
    return 0


def follow(machine: Machine, args: argparse.Namespace) -> int:
    """Prints the screen each time that it changes, until the machine ends. Returns the exit code."""
    last: Screen | None = None
    while machine.alive():
        try:
            screen = look(machine)
        except RumplabError:
            # If the machine has ended meanwhile, that is no error.
            if machine.alive():
                raise
            break
        if last is None or screen.text != last.text or (args.png and screen.picture != last.picture):
            if args.png is not None:
                save(screen, args.png)
            show(machine, screen, args)
            last = screen
        time.sleep(POLL_SECONDS)
    return 0


def show(machine: Machine, screen: Screen, args: argparse.Namespace) -> None:
    """Prints one screen of --follow: in place of the last one on a terminal, below it otherwise."""
    if args.json:
        import json

        print(json.dumps(described(machine, screen, args.png), ensure_ascii=False), flush=True)
    elif args.png is not None:
        return
    elif sys.stdout.isatty():
        lines = (f"{line}{TO_LINE_END}\n" for line in screen.text.split("\n"))
        print(TO_THE_TOP + "".join(lines) + TO_SCREEN_END, end="", flush=True)
    else:
        print(f"{screen.text}\n{'-' * (screen.columns or 80)}", flush=True)
