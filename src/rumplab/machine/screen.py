"""Reads a machine's VGA screen, as text or as a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rumplab.errors import RumplabError
from rumplab.host.answers import MALFORMED
from rumplab.machine import qmp, vga_text
from rumplab.machine.consoles import SERIAL
from rumplab.machine.registry import Machine

# Long, since a busy host draws and sends a picture slowly.
ANSWER_SECONDS = 10.0
PICTURE = "screen.ppm"
# In QEMU's error for 'screendump' if the machine has no display.
NO_CARD = "no console"
# PCI's base class of display controllers.
DISPLAYS = 0x03


@dataclass(frozen=True)
class Screen:
    """The content of a screen. `columns` and `rows`, its text, are None in graphics mode."""

    picture: vga_text.Picture
    columns: int | None
    rows: tuple[str, ...] | None

    @property
    def text(self) -> str:
        """The rows up to the last one that isn't empty; in graphics mode, a note."""
        if self.rows is None:
            return f"({graphics(self.picture)})"
        return "\n".join(self.rows).rstrip("\n")


def graphics(picture: vga_text.Picture) -> str:
    return f"graphics mode, {picture.width}x{picture.height}"


def check(machine: Machine) -> None:
    """Raises RumplabError if the machine has no screen."""
    if machine.console == SERIAL:
        raise no_screen(machine)


def no_screen(machine: Machine) -> RumplabError:
    """Returns the error for a machine without a VGA card."""
    return RumplabError(
        f"{machine.name} has no VGA card, so no screen: its console is the serial port, which 'rumplab logs"
        f" {machine.name}' prints; start it with --console vga for a screen"
    )


def look(machine: Machine) -> Screen:
    """Returns the present screen of `machine`. RumplabError if it has none, or if QEMU doesn't answer."""
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
    except MALFORMED as error:
        raise RumplabError(f"{machine.name} sent something that is not its screen: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    shape = vga_text.layout(picture, *bios)
    if shape is None and not shown:
        # Without a display, QEMU's picture shows one of QEMU's own consoles.
        raise no_screen(machine)
    if shape is None:
        return Screen(picture, None, None)
    return Screen(picture, shape.columns, tuple(vga_text.text(memory, picture, shape)))


def has_display(buses: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether a display is on one of `buses`, the answer to query-pci, or behind a bridge on one."""
    devices = [device for bus in buses for device in bus.get("devices", ())]
    if any(device["class_info"]["class"] >> 8 == DISPLAYS for device in devices):
        return True
    behind = [device["pci_bridge"] for device in devices if "pci_bridge" in device]
    return bool(behind) and has_display(behind)


def words(printed: str, size: int = 4) -> bytes:
    """Returns the memory in `printed`, the output of the monitor's `xp`: lines ``ADDRESS: 0xVALUE…`` with
    little-endian values of `size` bytes. ValueError if a value is larger."""
    values = (value for line in printed.splitlines() for value in line.partition(":")[2].split())
    try:
        return b"".join(int(value, 16).to_bytes(size, "little") for value in values)
    except OverflowError as error:
        raise ValueError(str(error)) from error
