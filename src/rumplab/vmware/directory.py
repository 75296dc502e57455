"""The directory that an export makes: names in it, and what is read from it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.lab.config import read_object
from rumplab.vmware import vmx

DISK = "disk.vmdk"
CONFIGURATION = "machine.vmx"
PROGRAM = "program.elf"
README = "README.txt"
SERIAL = "serial.log"
PIPE = "serial.pipe"
# What tells a directory of ours from any other.
DESCRIPTION = "rumplab-export.json"


@dataclass(frozen=True)
class Export:
    """What a debugger needs of an export: the stub's `port`, and the program with the symbols, if any."""

    port: int
    program: str | None
    program_sha256: str | None


def is_export(directory: Path) -> bool:
    """Whether `directory` was made by an export."""
    return (directory / DESCRIPTION).is_file()


def locks(directory: Path) -> list[Path]:
    """What VMware puts beside a machine that is running, and takes away afterwards."""
    return sorted(directory.glob("*.lck"))


def open_export(directory: Path) -> Export:
    """What `rumplab export` left in `directory`. RumplabError when that isn't there or is damaged.

    The port is read from VMware's file, where its user may have changed it.
    """
    if not is_export(directory):
        raise RumplabError(f"{directory} is no export; make one with: rumplab export IMAGE --vmware {directory}")
    about = read_object(directory / DESCRIPTION, f"rumplab export IMAGE --vmware {directory} --force")
    path = directory / CONFIGURATION
    try:
        values = vmx.read(path)
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror}; export the image again") from error
    program = directory / PROGRAM
    digest = about.get("program_sha256")
    return Export(
        vmx.stub_port(values, str(path)),
        str(program) if digest else None,
        digest if isinstance(digest, str) else None,
    )


def readme(machine: vmx.Machine, has_program: bool) -> str:
    """README.txt: how to start the machine and attach to it."""
    symbols = f"  -ex 'file {PROGRAM}' \\\n" if has_program else ""
    console = (
        f"The console is a UNIX socket: {machine.serial}\nTo see it: socat - UNIX-CONNECT:{machine.serial}"
        if machine.pipe
        else f"The console is written to {machine.serial} in this directory."
    )
    without = "" if has_program else f"\nThere is no {PROGRAM} here: the image had no program on record.\n"
    title = f"{machine.name}, for VMware Fusion, Workstation and Player"
    return f"""\
{title}
{"=" * len(title)}

Open {CONFIGURATION} in VMware and start the machine. (A copy of a machine was "copied", should VMware ask.)
{console}

Its debug stub listens on 127.0.0.1, port {machine.port}, on the host that runs VMware. There, in here:

  rumplab debug --vmware .

or, with a GDB that bears a long reply to its 'g' packet, as the lab's does:

  gdb -ex 'set architecture i386:x86-64' \\
{symbols}\
  -ex 'target remote 127.0.0.1:{machine.port}'
{without}
To stop before the first instruction, add to {CONFIGURATION}: monitor.debugOnStartGuest64 = "TRUE"
"""
