"""Builds QEMU's command line. This module starts no program.

The default machine is the one for work on rump's PCI drivers: it has an e1000 behind a PCI bridge, a user network, and
a debug stub that only its user can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rumplab.errors import UsageError
from rumplab.host import ports
from rumplab.machine import disk_controllers, nics
from rumplab.machine.disk_controllers import Disk
from rumplab.machine.nics import Link, Nic

E1000_ID = 0x100E8086
EXIT_PORT = 0xF4


@dataclass(frozen=True)
class Spec:
    """The machine to build.

    Exactly one of `image` and `program` is a path: the disk that boots, or the program that QEMU loads. `initrd` is the
    program's module, `drives` are further disks. `link` connects cards to the bridge. `display` shows the VGA card, if
    there is one. The debug stub listens on the TCP port `gdb_port`, or on the socket `stub`; if neither is set, there
    is none. `sandbox` is the value of -sandbox, or None. `icount` is the value of -icount if QEMU records or replays
    the run, or None.
    """

    qemu: str
    accel: str
    gdb_port: int = 0
    stub: str | None = None
    sandbox: str | None = None
    memory: str = "128M"
    image: str | None = None
    image_format: str = "raw"
    program: str | None = None
    arguments: str | None = None
    initrd: str | None = None
    disk: str = disk_controllers.DEFAULT
    snapshot: bool = False
    drives: tuple[Disk, ...] = ()
    vga: bool = True
    display: str = "none"
    nics: tuple[Nic, ...] = (Nic(),)
    link: Link | None = None
    pci_bridge: bool = True
    wait: bool = False
    exit_device: bool = False
    icount: str | None = None
    extra: tuple[str, ...] = ()

    @property
    def disks(self) -> tuple[Disk, ...]:
        """All disks. The disk that boots is the first."""
        if self.image is None:
            return self.drives
        return (Disk(self.image, self.image_format, self.disk, self.snapshot), *self.drives)


def check_extra(extra: Sequence[str]) -> None:
    """Raises UsageError for -daemonize: QEMU would run on in a child process, which the record doesn't name."""
    if any(word.lstrip("-") == "daemonize" for word in extra):
        raise UsageError("-daemonize would hide QEMU from 'rumplab ps' and 'rumplab stop'; use --detach instead")


def value(text: str) -> str:
    """Returns `text` as the value of a QEMU option. QEMU reads two commas as one; a single one would end the value."""
    return text.replace(",", ",,")


def machine_argv(spec: Spec) -> list[str]:
    """Returns QEMU's command line for the machine: board, devices, debug stub and what it boots. Consoles, control
    socket and `extra` are not part of it."""
    argv = [spec.qemu, "-machine", f"pc,accel={spec.accel}", "-m", spec.memory, "-display", spec.display]
    argv += [] if spec.vga else ["-vga", "none"]
    argv += nics.argv(spec.nics, spec.link, spec.pci_bridge, logged=spec.icount is not None)
    argv += ["-icount", spec.icount, *nics.logged(spec.nics)] if spec.icount else []
    argv += stub_argv(spec)
    argv += ["-sandbox", spec.sandbox] if spec.sandbox else []
    if spec.wait:
        argv.append("-S")
    if spec.exit_device:
        argv += ["-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x4"]
    return argv + boot_argv(spec)


def stub_argv(spec: Spec) -> list[str]:
    """Returns the options of the debug stub. Whoever can send it a packet can also send a command to QEMU's monitor,
    and the monitor can run programs."""
    if spec.gdb_port:
        return ["-gdb", f"tcp:{ports.LOOPBACK}:{spec.gdb_port}"]
    if spec.stub is None:
        return []
    return ["-chardev", f"socket,id=gdb,path={value(spec.stub)},server=on,wait=off", "-gdb", "chardev:gdb"]


def boot_argv(spec: Spec) -> list[str]:
    """Returns the options of the program, if QEMU loads one, and of all disks."""
    argv = []
    if spec.program is not None:
        argv += ["-kernel", spec.program]
        argv += ["-append", spec.arguments] if spec.arguments else []
        argv += ["-initrd", spec.initrd] if spec.initrd else []
    return argv + disk_controllers.argv(spec.disks, boots=spec.image is not None, logged=spec.icount is not None)


def foreground_argv(log: str) -> list[str]:
    """Returns options with which the serial console and QEMU's monitor (Ctrl-A c) share the terminal. QEMU also writes
    the console to the file `log`."""
    chardev = f"stdio,id=console,mux=on,signal=off,logfile={value(log)}"
    return ["-chardev", chardev, "-serial", "chardev:console", "-monitor", "chardev:console"]


def terminal_argv() -> list[str]:
    """Returns the options of `foreground_argv` without the log, for a command that the user runs."""
    return ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console",
            "-monitor", "chardev:console"]  # fmt: skip


def screen_argv(log: str) -> list[str]:
    """Returns options for a curses display on the terminal, with QEMU's monitor as its second screen. The serial port
    goes to the file `log`."""
    return [*detached_argv(log), "-monitor", "vc"]


def detached_argv(log: str) -> list[str]:
    """Returns options with which the serial console goes to the file `log`."""
    return ["-chardev", f"file,id=console,path={value(log)}", "-serial", "chardev:console"]


def unused_port_argv(name: str) -> list[str]:
    """Returns the options for a serial port whose other side is closed."""
    return ["-chardev", f"null,id={name}", "-serial", f"chardev:{name}"]


def control_argv(socket: str) -> list[str]:
    """Returns the options of the control socket (QMP), which ps, stop, screen and type use."""
    return ["-chardev", f"socket,id=control,path={value(socket)},server=on,wait=off",
            "-qmp", "chardev:control"]  # fmt: skip
