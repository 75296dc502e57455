"""The directory of an export: its file names, and reading it for the debugger."""

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
# The file that marks a directory as an export.
DESCRIPTION = "rumplab-export.json"


@dataclass(frozen=True)
class Export:
    """The parts of an export that a debugger needs: the stub's `port`, and the program with the symbols, if any."""

    port: int
    program: str | None
    program_sha256: str | None


def is_export(directory: Path) -> bool:
    """Whether `directory` is an export."""
    return (directory / DESCRIPTION).is_file()


def locks(directory: Path) -> list[Path]:
    """VMware's lock files and directories in `directory`, which exist while the machine runs."""
    return sorted(directory.glob("*.lck"))


def open_export(directory: Path) -> Export:
    """The export in `directory`. RumplabError when `directory` isn't an export, or is damaged.

    The port is read from VMware's configuration file, since the user may have changed it there.
    """
    if not is_export(directory):
        raise RumplabError(f"{directory} is not an export; make one with: rumplab export IMAGE --vmware {directory}")
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
    """The text of README.txt: how to start the machine and attach a debugger."""
    symbols = f"  -ex 'file {PROGRAM}' \\\n" if has_program else ""
    console = (
        f"The console is a UNIX socket: {machine.serial}\nTo see it: socat - UNIX-CONNECT:{machine.serial}"
        if machine.pipe
        else f"VMware writes the console's output to {machine.serial} in this directory."
    )
    without = "" if has_program else f"\nThis directory has no {PROGRAM}: the image had no program on record.\n"
    title = f"{machine.name}, for VMware Fusion, Workstation and Player"
    return f"""\
{title}
{"=" * len(title)}

Open {CONFIGURATION} in VMware and start the machine. (If VMware asks about a copied machine, answer "copied".)
{console}

Its debug stub listens on 127.0.0.1, port {machine.port}, on the host that runs VMware. To attach on that host, run in
this directory:

  rumplab debug --vmware .

or, with a GDB that accepts a long reply to its 'g' packet, such as the lab's:

  gdb -ex 'set architecture i386:x86-64' \\
{symbols}\
  -ex 'target remote 127.0.0.1:{machine.port}'
{without}
To stop before the first instruction, add to {CONFIGURATION}: monitor.debugOnStartGuest64 = "TRUE"
"""
