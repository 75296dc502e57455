"""``rumplab screen``: what a machine's VGA screen shows."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumplab import output
from rumplab.errors import RumplabError
from rumplab.host.answers import UNFIT
from rumplab.lab import config
from rumplab.machine import qmp, vga_text
from rumplab.machine.consoles import SERIAL
from rumplab.machine.registry import Machine, open_machines

HELP = "print a machine's screen as text, or save a picture of it"
EPILOG = """\
The screen of a VGA card in text mode, at this moment. A machine that 'rumplab run' gave none has its console on the
serial port: see 'rumplab logs'. A guest of 'rumplab guest' has both.

examples:
  rumplab screen ipxe
  rumplab screen ipxe --follow            until the machine ends, or Ctrl-C
  rumplab screen ipxe --png screen.png    its picture, in graphics mode too
  rumplab screen ipxe --json
"""
POLL_SECONDS = 0.3
# A busy host draws and sends a picture slowly.
ANSWER_SECONDS = 10.0
PICTURE = "screen.ppm"
TO_THE_TOP, TO_LINE_END, TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"
# What QEMU says to 'screendump' without anything that could be shown.
NO_CARD = "no console"
# PCI's class of displays.
DISPLAYS = 0x03


@dataclass(frozen=True)
class Screen:
    """What is shown: a picture, and in text mode its rows."""

    picture: vga_text.Picture
    columns: int | None
    rows: tuple[str, ...] | None

    @property
    def text(self) -> str:
        """The rows down to the last one that has something."""
        if self.rows is None:
            return f"({graphics(self.picture)})"
        return "\n".join(self.rows).rstrip("\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("--png", metavar="FILE", type=Path, help="save its picture, and print nothing")
    parser.add_argument("-f", "--follow", action="store_true", help="print it again when it changes")
    parser.add_argument("--json", action="store_true", help="print JSON; with --follow, a line each time")


def graphics(picture: vga_text.Picture) -> str:
    return f"graphics mode, {picture.width}x{picture.height}"


def check(machine: Machine) -> None:
    """RumplabError for a machine without a screen."""
    if machine.console == SERIAL:
        raise no_screen(machine)


def no_screen(machine: Machine) -> RumplabError:
    return RumplabError(
        f"{machine.name} has no VGA card, so no screen: its console is the serial port, which 'rumplab logs"
        f" {machine.name}' prints; start it with --console vga for a screen"
    )


def look(machine: Machine) -> Screen:
    """The screen of `machine`, now. RumplabError when it has none."""
    check(machine)
    path = machine.path / PICTURE
    try:
        with qmp.Session(machine.socket, ANSWER_SECONDS) as session:
            if session.status() == "prelaunch":
                raise RumplabError(
                    f"{machine.name} waits before its first instruction, so its screen shows nothing; attach with:"
                    f" rumplab debug {machine.name}"
                )
            session.execute("screendump", {"filename": str(path)})
            picture = vga_text.read_ppm(path.read_bytes())
            shown = has_display(session.execute("query-pci"))
            memory = words(session.monitor(f"xp /{vga_text.WORDS}xw {vga_text.ADDRESS:#x}"))
            bios = [
                words(session.monitor(f"xp /1xb {address:#x}"), 1)[0]
                for address in (vga_text.BIOS_MODE, vga_text.BIOS_LAST_ROW)
            ]
    except qmp.QmpError as error:
        if NO_CARD in str(error):
            raise no_screen(machine) from error
        raise RumplabError(f"{machine.name} does not show its screen: {error}") from error
    except UNFIT as error:
        raise RumplabError(f"{machine.name} sent something that is not its screen: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    shape = vga_text.layout(picture, *bios)
    if shape is None and not shown:
        # QEMU has shown a console of its own.
        raise no_screen(machine)
    if shape is None:
        return Screen(picture, None, None)
    return Screen(picture, shape.columns, tuple(vga_text.text(memory, picture, shape)))


def has_display(buses: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of PCI's `buses`, as query-pci lists them, has a display on it, or behind a bridge."""
    devices = [device for bus in buses for device in bus.get("devices", ())]
    if any(device["class_info"]["class"] >> 8 == DISPLAYS for device in devices):
        return True
    behind = [device["pci_bridge"] for device in devices if "pci_bridge" in device]
    return bool(behind) and has_display(behind)


def words(said: str, size: int = 4) -> bytes:
    """The memory in what the monitor's `xp` says: lines of ``ADDRESS: 0xVALUE…``, each value of `size` bytes.

    ValueError for a value that is larger.
    """
    values = (value for line in said.splitlines() for value in line.partition(":")[2].split())
    try:
        return b"".join(int(value, 16).to_bytes(size, "little") for value in values)
    except OverflowError as error:
        raise ValueError(str(error)) from error


def described(machine: Machine, screen: Screen, png: Path | None) -> dict[str, Any]:
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
    """Writes the picture, whole or not at all."""
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
    """Shows the screen whenever it has changed, until the machine ends."""
    last: Screen | None = None
    while machine.alive():
        try:
            screen = look(machine)
        except RumplabError:
            # It may have ended meanwhile, which is no failure.
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
    """One screen of several: over the last one on a terminal, else below it."""
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
