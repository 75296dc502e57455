"""The configuration file of a VMware virtual machine: lines of `key = "value"`.

In a value, `|` and two hex digits represent a quote, a bar or a control character. Keys are case-insensitive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError

ADAPTERS = ("lsilogic", "lsisas1068")
# VMware's default port for a 64-bit guest.
PORT = 8864
LISTEN_KEY = "debugStub.listen.guest64"
PORT_KEY = "debugStub.port.guest64"
WANTED = (LISTEN_KEY.lower(), PORT_KEY.lower())
# A value without quotes ends at a blank; a value without its closing quote ends at the end of the line.
LINE = re.compile(r'\s*([\w.:-]+)\s*=\s*(?:"([^"\r]*)|([^\s"#]+))')
KEY = re.compile(r"\s*([\w.:-]+)")
YES = ("TRUE", "YES", "ON", "1", "T", "Y")
ESCAPE = re.compile(r"\|([0-9A-Fa-f]{2})")
# Version 10 is that of Fusion 6 and Workstation 10; all later releases open it.
HARDWARE = "10"
BRIDGES = (4, 5, 6, 7)


@dataclass(frozen=True)
class Machine:
    """The description of a virtual machine. `disk` and `serial` are file names; with `pipe`, `serial` is a pipe.
    `memory` is in MiB."""

    name: str
    disk: str
    serial: str
    pipe: bool = False
    adapter: str = ADAPTERS[0]
    port: int = PORT
    memory: int = 128


def settings(machine: Machine) -> dict[str, str]:
    """The keys and values of `machine`, in the file's order.

    The debug stub must listen on loopback only, so there must be no key `debugStub.listen.guest64.remote`.
    """
    found = {
        ".encoding": "UTF-8",
        "config.version": "8",
        "virtualHW.version": HARDWARE,
        "displayName": machine.name,
        "guestOS": "other-64",
        "firmware": "bios",
        "numvcpus": "1",
        "memsize": str(machine.memory),
        "floppy0.present": "FALSE",
        # The PCI bridges to which VMware attaches its devices; the lab's drivers look for the devices there.
        "pciBridge0.present": "TRUE",
    }
    for number in BRIDGES:
        found[f"pciBridge{number}.present"] = "TRUE"
        found[f"pciBridge{number}.virtualDev"] = "pcieRootPort"
        found[f"pciBridge{number}.functions"] = "8"
    found |= {
        "scsi0.present": "TRUE",
        "scsi0.virtualDev": machine.adapter,
        "scsi0:0.present": "TRUE",
        "scsi0:0.deviceType": "scsi-hardDisk",
        "scsi0:0.fileName": machine.disk,
        "ethernet0.present": "TRUE",
        "ethernet0.virtualDev": "e1000",
        "ethernet0.connectionType": "nat",
        "ethernet0.addressType": "generated",
        "serial0.present": "TRUE",
        "serial0.startConnected": "TRUE",
        "serial0.fileType": "pipe" if machine.pipe else "file",
        "serial0.fileName": machine.serial,
    }
    if machine.pipe:
        found |= {"serial0.pipe.endPoint": "server", "serial0.tryNoRxLoss": "TRUE"}
    return found | {
        # Without it, a guest that polls its serial port keeps a processor of the host busy.
        "serial0.yieldOnMsrRead": "TRUE",
        LISTEN_KEY: "TRUE",
        PORT_KEY: str(machine.port),
        # Makes VMware set breakpoints in debug registers: the boot loader would overwrite breakpoints in memory.
        "debugStub.hideBreakpoints": "TRUE",
        # Prevents VMware's question whether the machine was copied or moved.
        "uuid.action": "create",
    }


def write(values: Mapping[str, str]) -> str:
    """The text of a configuration file with these settings."""
    return "".join(f'{key} = "{escape(value)}"\n' for key, value in values.items())


def escape(value: str) -> str:
    """`value` with escapes for quotes, bars and control characters."""
    return "".join(
        f"|{ord(character):02X}" if character in '"|' or character < " " or character == "\x7f" else character
        for character in value
    )


def parse(text: str, where: str) -> dict[str, str]:
    """The settings in a file's `text`, by key in lower case. Users edit the file and VMware ignores invalid lines, so
    invalid lines are skipped. RumplabError for an invalid line whose key is in WANTED. `where` names the file."""
    found = {}
    # Only \n ends a line; splitlines() would also split at Unicode line separators, which a name may contain.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        match = LINE.match(line)
        if match is None:
            key = KEY.match(line)
            if key and key[1].lower() in WANTED:
                raise RumplabError(f'{where}: line {number} is not valid: {line.strip()}; write: {key[1]} = "…"')
            continue
        value = match[3] if match[2] is None else match[2]
        found[match[1].lower()] = ESCAPE.sub(lambda code: chr(int(code[1], 16)), value)
    return found


def read(path: Path) -> dict[str, str]:
    """The settings in the file `path`. Its encoding may be any superset of ASCII, since the needed settings are
    ASCII."""
    return parse(path.read_bytes().decode(errors="replace"), str(path))


def stub_port(values: Mapping[str, str], where: str) -> int:
    """The port of the debug stub in parsed settings. RumplabError when the stub is off or the port is invalid."""
    if values.get(LISTEN_KEY.lower(), "").strip().upper() not in YES:
        raise RumplabError(f'{where} has no debug stub; add: {LISTEN_KEY} = "TRUE"')
    port = values.get(PORT_KEY.lower(), str(PORT)).strip()
    if not re.fullmatch("[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise RumplabError(f"{where}: {PORT_KEY} is '{port}'; set it to a port between 1 and 65535")
    return int(port)
