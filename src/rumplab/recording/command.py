"""QEMU's command lines of a recording: the one that records, and the one that repeats.

Both run in the recording's directory, where the program, the disks and the log have short names: so a recording can be
moved. A program sees its own name as the first word of its command line: that must be the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rumplab.machine import nics, qemu_argv
from rumplab.machine.qemu_argv import Spec
from rumplab.recording import devices
from rumplab.recording.record import CONSOLE, LOG, MESSAGES, RECORD

MODULE = "module"
# What a part can't be called: it stands there already.
TAKEN = (RECORD, LOG, CONSOLE, MESSAGES, MODULE)
RECORDING, REPLAYING = "record", "replay"


def icount(mode: str) -> str:
    return f"shift=auto,rr={mode},rrfile={LOG}"


def program_name(path: str, others: Iterable[str] = TAKEN) -> str:
    """What the program at `path` is called in the recording."""
    name = Path(path).name
    return f"{name}.program" if name in others or name.startswith((".", "disk")) else name


def disk_name(number: int) -> str:
    return f"disk{number}"


def recording(spec: Spec, module: bool) -> Spec:
    """The machine of `spec` as it is recorded, with a `module` or not. Its program is the recording's, its disks are
    its own."""
    return replace(
        spec,
        accel=devices.ACCEL,
        display="none",
        program=program_name(spec.program) if spec.program else None,
        initrd=MODULE if module else None,
        icount=icount(RECORDING),
    )


def replaying(spec: Spec) -> Spec:
    """The machine of `spec`, which was recorded, as it is repeated: nothing of it reaches anything else than the
    recording, which stays as it is. What came over a network is in the log, whatever the network was."""
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
    """The serial console of a machine that is recorded. On a terminal, what is typed goes into the log: QEMU's monitor
    would take a part of it, so there is none."""
    if foreground:
        chardev = f"stdio,id=console,signal=on,logfile={CONSOLE}"
        return ["-chardev", chardev, "-serial", "chardev:console"]
    return qemu_argv.detached_argv(CONSOLE)


def replay_argv(
    base: Sequence[str], console: str, control: str | None = None, stub: str | None = None, held: bool = False
) -> list[str]:
    """The command of one replay, `base` with what is its own: the file for its console, and the sockets of QEMU's
    control and debug stub. `held` stops it before its first instruction."""
    argv = [*base, *qemu_argv.detached_argv(console)]
    argv += qemu_argv.control_argv(control) if control else []
    if stub:
        argv += ["-chardev", f"socket,id=gdb,path={qemu_argv.value(stub)},server=on,wait=off", "-gdb", "chardev:gdb"]
    return [*argv, "-S"] if held else argv
