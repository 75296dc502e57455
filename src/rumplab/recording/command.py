"""Builds the QEMU command lines that record a run and replay it.

QEMU runs in the recording's directory, and the commands name the program, the disks and the log without a directory, so
you can move a recording. The guest sees the program's name as the first word of its command line, so the name must be
the same in both commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rumplab.machine import nics, qemu_argv
from rumplab.machine.qemu_argv import Spec
from rumplab.recording import devices
from rumplab.recording.record import CONSOLE, LOG, MESSAGES, RECORD, SNAPSHOTS

MODULE = "module"
# The names of the recording's own files, which no copied file may have.
TAKEN = (RECORD, LOG, CONSOLE, MESSAGES, SNAPSHOTS, MODULE)
RECORDING, REPLAYING = "record", "replay"


def icount(mode: str) -> str:
    return f"shift=auto,rr={mode},rrfile={LOG}"


def program_name(path: str, others: Iterable[str] = TAKEN) -> str:
    """Returns the name of the copy of the program at `path`."""
    name = Path(path).name
    return f"{name}.program" if name in others or name.startswith((".", "disk")) else name


def disk_name(number: int) -> str:
    return f"disk{number}"


def recording(spec: Spec, module: bool) -> Spec:
    """Returns the machine that records. It runs the recording's copy of the program, but uses the original disks. With
    `module`, it has the recording's module."""
    return replace(
        spec,
        accel=devices.ACCEL,
        display="none",
        program=program_name(spec.program) if spec.program else None,
        initrd=MODULE if module else None,
        icount=icount(RECORDING),
    )


def replaying(spec: Spec) -> Spec:
    """Returns the machine that replays the recorded `spec`. It uses only files of the recording, and changes none. The
    log has the received packets, so any kind of network will do."""
    disks = tuple(
        replace(disk, file=disk_name(number), snapshot=disk.controller != "cdrom")
        for number, disk in enumerate(spec.disks)
    )
    booted, drives = (disks[0], disks[1:]) if spec.image is not None else (None, disks)
    return replace(
        spec,
        image=booted.file if booted else None,
        snapshot=booted.snapshot if booted else False,
        drives=drives,
        nics=tuple(replace(card, net=nics.USER, forwards=(), open=False) for card in spec.nics),
        link=None,
        gdb_port=0,
        stub=None,
        wait=False,
        icount=icount(REPLAYING),
    )


def console_argv(foreground: bool) -> list[str]:
    """Returns the arguments for the serial console of a recorded machine. In the foreground, all input goes to the
    guest and into the log; there is no QEMU monitor, which would take a part of the input."""
    if foreground:
        chardev = f"stdio,id=console,signal=on,logfile={CONSOLE}"
        return ["-chardev", chardev, "-serial", "chardev:console"]
    return qemu_argv.detached_argv(CONSOLE)


def replay_argv(
    base: Sequence[str], console: str, control: str | None = None, stub: str | None = None, held: bool = False
) -> list[str]:
    """Returns the command of one replay: `base`, the file for its console, and the sockets `control` (QMP) and `stub`.
    With `held`, the machine stops before its first instruction."""
    argv = [*base, *qemu_argv.detached_argv(console)]
    argv += qemu_argv.control_argv(control) if control else []
    if stub:
        argv += ["-chardev", f"socket,id=gdb,path={qemu_argv.value(stub)},server=on,wait=off", "-gdb", "chardev:gdb"]
    return [*argv, "-S"] if held else argv
