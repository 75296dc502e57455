"""Builds the QEMU command lines that record a run and replay it.

QEMU runs in the recording's directory, and the commands name the program, the disks and the log without a directory, so
you can move a recording. The guest sees the program's name as the first word of its command line, so the name must be
the same in both commands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rumplab.machine import qemu_argv
from rumplab.machine.qemu_argv import Spec
from rumplab.recording import devices, hardware
from rumplab.recording.hardware import MODULE
from rumplab.recording.record import CONSOLE, LOG, OWN, SNAPSHOTS, Recording

# The names of the recording's own files, which no copied file may have.
TAKEN = (*OWN, SNAPSHOTS, MODULE)
# The id of the second serial port's character device.
DEBUGGER = "com1"
RECORDING, REPLAYING = "record", "replay"


def icount(mode: str) -> str:
    return f"shift=auto,rr={mode},rrfile={LOG}"


def program_name(path: str, others: Iterable[str] = TAKEN) -> str:
    """Returns the name of the copy of the program at `path`."""
    name = Path(path).name
    return f"{name}.program" if name in others or name.startswith((".", "disk")) else name


def recording(spec: Spec, module: bool = False) -> Spec:
    """Returns the machine that records. It runs the recording's copy of the program, but uses the original disks. With
    `module`, or if `spec` has an initrd, it has the recording's module."""
    return replace(
        spec,
        accel=devices.ACCEL,
        display="none",
        program=program_name(spec.program) if spec.program else None,
        initrd=MODULE if module or spec.initrd is not None else None,
        icount=icount(RECORDING),
    )


def replay_argv(
    recorded: Recording, console: str, control: str | None = None, stub: str | None = None, held: bool = False
) -> list[str]:
    """Returns the command of one replay, with the file for its console, and the sockets `control` (QMP) and `stub`.
    With `held`, the machine stops before its first instruction."""
    spec = hardware.machine(recorded.hardware, recorded.emulator, recorded.sandbox)
    argv = qemu_argv.machine_argv(replace(spec, icount=icount(REPLAYING)))
    argv += qemu_argv.detached_argv(console)
    if recorded.hardware.ports > 1:
        # The log has the input of all ports, so they need no other side.
        argv += qemu_argv.unused_port_argv(DEBUGGER)
    argv += qemu_argv.control_argv(control) if control else []
    if stub:
        argv += ["-chardev", f"socket,id=gdb,path={qemu_argv.value(stub)},server=on,wait=off", "-gdb", "chardev:gdb"]
    return [*argv, "-S"] if held else argv


def console_argv(foreground: bool) -> list[str]:
    """Returns the arguments for the serial console of a recorded machine. In the foreground, all input goes to the
    guest and into the log; there is no QEMU monitor, which would take a part of the input."""
    if foreground:
        chardev = f"stdio,id=console,signal=on,logfile={CONSOLE}"
        return ["-chardev", chardev, "-serial", "chardev:console"]
    return qemu_argv.detached_argv(CONSOLE)
