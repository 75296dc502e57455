"""The option ``--drive`` of ``rumplab run``, which adds disks to the machine."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError, UsageError
from rumplab.image import recognise, recorded
from rumplab.lab.config import Lab
from rumplab.machine import disk_controllers
from rumplab.machine.disk_controllers import Disk

SETTINGS = "disk=CONTROLLER, format=FORMAT and snapshot"


@dataclass(frozen=True)
class DriveOption:
    """The value of one --drive. With None for `disk` or `format`, the file's content decides."""

    file: str
    disk: str | None = None
    format: str | None = None
    snapshot: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--drive",
        type=parse,
        action="append",
        default=[],
        metavar="FILE[,disk=CONTROLLER][,format=FORMAT][,snapshot]",
        help="add a disk (repeatable; write a comma in FILE twice)",
    )


def parse(text: str) -> DriveOption:
    """Parses FILE[,disk=CONTROLLER][,format=FORMAT][,snapshot]. In FILE, two commas stand for one."""
    file, *settings = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    if not file:
        raise argparse.ArgumentTypeError(f"'{text}' names no file; begin with it")
    found: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        choices = {"disk": tuple(disk_controllers.CONTROLLERS), "format": recognise.FORMATS}.get(key)
        if key in found or (key != "snapshot" and choices is None) or (key == "snapshot" and equals):
            raise argparse.ArgumentTypeError(
                f"'{setting}' in '{text}' is not a setting; use {SETTINGS}, once each (write a comma of FILE twice)"
            )
        if choices is not None and value not in choices:
            raise argparse.ArgumentTypeError(f"{key} can't be '{value}'; use one of {', '.join(choices)}")
        found[key] = value
    return DriveOption(file, found.get("disk"), found.get("format"), "snapshot" in found)


def disk(wanted: DriveOption, lab: Lab, allow_backing: bool = False) -> Disk:
    """Returns the disk for one --drive. If the file is a CD image and the option names no controller, it is a CD.

    RumplabError if the file is neither a regular file nor a block device; UsageError if it is a program.
    """
    path = Path(wanted.file)
    if not path.is_file() and not path.is_block_device():
        why = "is no file" if path.exists() else "does not exist"
        raise RumplabError(f"--drive: {wanted.file} {why}; make an empty disk with: truncate -s 64M FILE")
    file = str(path.resolve())
    found = recorded.settle(lab, file, wanted.format, allow_backing)
    if found.format is None:
        raise UsageError(f"--drive: {wanted.file} is a program, not a disk; to boot it, give it as PROGRAM")
    controller = wanted.disk or (disk_controllers.CDROM if found.cd else disk_controllers.DEFAULT)
    return Disk(file, found.format, controller, wanted.snapshot)
