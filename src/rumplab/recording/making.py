"""What is done before a run is recorded: copies of all that a replay takes, and the record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import UsageError
from rumplab.host.files import sha256
from rumplab.machine import qemu_argv
from rumplab.machine.qemu_argv import Spec
from rumplab.machine.registry import Machine
from rumplab.recording import command, copying, devices, record
from rumplab.recording.emulator import Emulator
from rumplab.recording.record import Part, Recording

ROOM = 4096


@dataclass(frozen=True)
class Wanted:
    """What is to be recorded: the machine `spec` with its `record`, `module` the content of a program's module."""

    spec: Spec
    record: Machine
    module: bytes | None = None

    @property
    def recorded(self) -> Spec:
        """The machine as it is recorded."""
        return command.recording(self.spec, module=self.module is not None)

    @property
    def symbols(self) -> str | None:
        """The file that GDB loads."""
        return self.record.program


def check(spec: Spec, backing: bool) -> None:
    """UsageError for what can't be recorded."""
    devices.check_accel(spec.accel)
    devices.check_extra(spec.extra)
    devices.check_nics(spec.nics)
    devices.check_disks(spec.disks)
    if backing and spec.disks:
        raise UsageError("--record keeps a copy of each disk, so with --record a disk stands alone: no --allow-backing")


def make(directory: Path, wanted: Wanted, argv: list[str], emulator: Emulator, now: float | None = None) -> Recording:
    """Fills `directory`, which is empty, for a run by the command `argv`. The console's file is also the machine's."""
    made = Recording(
        directory=directory,
        machine=wanted.record.name,
        created=time.time() if now is None else now,
        emulator=wanted.spec.qemu,
        version=emulator.version,
        firmware=emulator.firmware,
        argv=tuple(argv),
        replay=tuple(qemu_argv.machine_argv(command.replaying(wanted.recorded))),
        parts=tuple(parts(directory, wanted)),
        symbols=symbols_name(wanted),
    )
    made.console.touch(0o600)
    # QEMU's messages have room whatever becomes of the disk: one of them says that the log had none.
    made.messages.write_bytes(b"\n" * ROOM)
    if wanted.record.directory:
        share(wanted.record.serial_log, made.console)
        share(wanted.record.qemu_log, made.messages)
    record.write(made)
    return made


def share(path: Path, target: Path) -> None:
    """Makes the machine's file `path` the recording's `target`."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def argv(wanted: Wanted, foreground: bool) -> list[str]:
    """The command that records the run, without the control socket."""
    return [*qemu_argv.machine_argv(wanted.recorded), *command.console_argv(foreground)]


def sources(wanted: Wanted) -> dict[str, str]:
    """The files that are copied, by what they are called in the recording."""
    spec = wanted.spec
    found = {command.disk_name(number): disk.file for number, disk in enumerate(spec.disks)}
    if spec.program is not None:
        found[command.program_name(spec.program)] = spec.program
    name = symbols_name(wanted)
    if wanted.symbols is not None and name is not None:
        found.setdefault(name, wanted.symbols)
    return found


def symbols_name(wanted: Wanted) -> str | None:
    """What the file that GDB loads is called in the recording: the program itself often is that file."""
    program = wanted.spec.program
    if wanted.symbols is None:
        return None
    own = command.program_name(program) if program else ""
    if wanted.symbols == program:
        return own
    return command.program_name(wanted.symbols, (*command.TAKEN, own))


def parts(directory: Path, wanted: Wanted) -> list[Part]:
    """Copies the files; the recording's parts."""
    found = [Part(name, copying.copied(source, directory / name), source) for name, source in sources(wanted).items()]
    if wanted.module is not None:
        path = directory / command.MODULE
        path.write_bytes(wanted.module)
        found.append(Part(command.MODULE, sha256(path), ""))
    return found


def shell(directory: str, wanted: Wanted, argv: list[str]) -> str:
    """The lines of a shell that record the same without this tool."""
    # Only here: few runs are printed.
    from shlex import join, quote

    lines = [f"mkdir {quote(directory)}"]
    lines += [f"cp {quote(source)} {quote(f'{directory}/{name}')}" for name, source in sources(wanted).items()]
    if wanted.module is not None:
        lines.append(f"printf %s {quote(wanted.module.decode())} >{quote(f'{directory}/{command.MODULE}')}")
    return "\n".join([*lines, f"cd {quote(directory)}", join(argv)])
