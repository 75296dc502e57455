"""Prepares a recording before QEMU starts: copies all files that a replay needs, and writes the record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import UsageError
from rumplab.host.files import sha256
from rumplab.image.recorded import references
from rumplab.machine import qemu_argv
from rumplab.machine.qemu_argv import Spec
from rumplab.machine.registry import Machine
from rumplab.recording import command, copying, devices, hardware, record
from rumplab.recording.emulator import Emulator
from rumplab.recording.record import Part, Recording

ROOM = 4096


@dataclass(frozen=True)
class Wanted:
    """The run to record: the machine `spec`, its `record`, and the content of the program's `module`, which else is
    the file in `spec`. The machine has `ports` serial ports."""

    spec: Spec
    record: Machine
    module: bytes | None = None
    ports: int = 1

    @property
    def recorded(self) -> Spec:
        """Returns the machine that records."""
        return command.recording(self.spec, module=self.module is not None)

    @property
    def symbols(self) -> str | None:
        """Returns the file with the symbols."""
        return self.record.program


def check(spec: Spec) -> None:
    """Raises UsageError if the machine can't be recorded; OSError for a disk that can't be read."""
    devices.check_accel(spec.accel)
    devices.check_extra(spec.extra)
    devices.check_nics(spec.nics)
    devices.check_disks(spec.disks)
    for disk in spec.disks:
        others = references(disk.file, disk.format)
        if others:
            raise UsageError(
                f"--record copies each disk, and {disk.file} {others}; make one file of it: qemu-img convert -f"
                f" {disk.format} -O qcow2 {disk.file} NEW.qcow2"
            )


def make(directory: Path, wanted: Wanted, argv: list[str], emulator: Emulator, now: float | None = None) -> Recording:
    """Fills the empty `directory` for a run with the command `argv`, and returns the recording. The machine's log of
    the console becomes a link to the recording's."""
    made = Recording(
        directory=directory,
        machine=wanted.record.name,
        created=time.time() if now is None else now,
        emulator=wanted.spec.qemu,
        version=emulator.version,
        firmware=emulator.firmware,
        argv=tuple(argv),
        hardware=hardware.describe(wanted.recorded, wanted.ports),
        parts=tuple(parts(directory, wanted)),
        symbols=symbols_name(wanted),
    )
    made.console.touch(0o600)
    # The file gets its space now, so that QEMU can report later that the disk has no space for the log.
    made.messages.write_bytes(b"\n" * ROOM)
    if wanted.record.directory:
        share(wanted.record.serial_log, made.console)
        share(wanted.record.qemu_log, made.messages)
    record.write(made)
    return made


def share(path: Path, target: Path) -> None:
    """Makes the machine's file `path` a link to the recording's `target`."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def argv(wanted: Wanted, foreground: bool) -> list[str]:
    """Returns the command that records the run, without the control socket."""
    return [*qemu_argv.machine_argv(wanted.recorded), *command.console_argv(foreground)]


def sources(wanted: Wanted) -> dict[str, str]:
    """Returns the files to copy, with their names in the recording as keys."""
    spec = wanted.spec
    found = {hardware.disk_name(number): disk.file for number, disk in enumerate(spec.disks)}
    if spec.program is not None:
        found[command.program_name(spec.program)] = spec.program
    name = symbols_name(wanted)
    if wanted.symbols is not None and name is not None:
        found.setdefault(name, wanted.symbols)
    if spec.initrd is not None:
        found[hardware.MODULE] = spec.initrd
    return found


def symbols_name(wanted: Wanted) -> str | None:
    """Returns the name of the file with the symbols in the recording, which often is the program itself."""
    program = wanted.spec.program
    if wanted.symbols is None:
        return None
    own = command.program_name(program) if program else ""
    if wanted.symbols == program:
        return own
    return command.program_name(wanted.symbols, (*command.TAKEN, own))


def parts(directory: Path, wanted: Wanted) -> list[Part]:
    """Copies the files, and returns the recording's parts."""
    found = [Part(name, copying.copied(source, directory / name), source) for name, source in sources(wanted).items()]
    if wanted.module is not None:
        path = directory / hardware.MODULE
        path.write_bytes(wanted.module)
        found.append(Part(hardware.MODULE, sha256(path), ""))
    return found


def shell(directory: str, wanted: Wanted, argv: list[str]) -> str:
    """Returns shell commands that record the same run without rumplab."""
    # Imported only here, since --dry-run is rare.
    from shlex import join, quote

    lines = [f"mkdir {quote(directory)}"]
    lines += [f"cp {quote(source)} {quote(f'{directory}/{name}')}" for name, source in sources(wanted).items()]
    if wanted.module is not None:
        lines.append(f"printf %s {quote(wanted.module.decode())} >{quote(f'{directory}/{hardware.MODULE}')}")
    return "\n".join([*lines, f"cd {quote(directory)}", join(argv)])
