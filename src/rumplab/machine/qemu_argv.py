"""Builds QEMU's command line. Nothing here runs anything.

The default machine is the one of the rump PCI work: an e1000 behind a PCI bridge on a user-mode network, and
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
    """What the machine is to be. Exactly one of `image` and `program` is a path. `link` is for the bridge, `initrd` a
    program's module, `drives` are further disks. `display` shows the VGA card, where there is one. The debug stub is on
    the TCP port `gdb_port`, or the socket `stub`, or there is none. `sandbox` is what -sandbox says, if anything.
    `icount` is what -icount says where QEMU writes a log of the run or repeats one."""

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
        """All disks, the one that boots first."""
        if self.image is None:
            return self.drives
        return (Disk(self.image, self.image_format, self.disk, self.snapshot), *self.drives)


def check_extra(extra: Sequence[str]) -> None:
    """UsageError for an argument that would part QEMU from the process that is on record."""
    if any(word.lstrip("-") == "daemonize" for word in extra):
        raise UsageError("-daemonize would leave QEMU unknown to ps and stop; use --detach instead")


def value(text: str) -> str:
    """`text` as the value of a QEMU option, where a comma would end it."""
    return text.replace(",", ",,")


def machine_argv(spec: Spec) -> list[str]:
    """The machine itself: board, devices, debug stub, what it boots."""
    argv = [spec.qemu, "-machine", f"pc,accel={spec.accel}", "-m", spec.memory, "-display", spec.display]
    argv += [] if spec.vga else ["-vga", "none"]
    argv += nics.argv(spec.nics, spec.link, spec.pci_bridge)
    argv += ["-icount", spec.icount, *nics.logged(spec.nics)] if spec.icount else []
    argv += stub_argv(spec)
    argv += ["-sandbox", spec.sandbox] if spec.sandbox else []
    if spec.wait:
        argv.append("-S")
    if spec.exit_device:
        argv += ["-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x4"]
    return argv + boot_argv(spec)


def stub_argv(spec: Spec) -> list[str]:
    """The debug stub. Whoever can send it a packet can send QEMU's monitor a command, which runs programs."""
    if spec.gdb_port:
        return ["-gdb", f"tcp:{ports.LOOPBACK}:{spec.gdb_port}"]
    if spec.stub is None:
        return []
    return ["-chardev", f"socket,id=gdb,path={value(spec.stub)},server=on,wait=off", "-gdb", "chardev:gdb"]


def boot_argv(spec: Spec) -> list[str]:
    """What the machine boots, a program by QEMU's own loader or a disk, and its disks."""
    argv = []
    if spec.program is not None:
        argv += ["-kernel", spec.program]
        argv += ["-append", spec.arguments] if spec.arguments else []
        argv += ["-initrd", spec.initrd] if spec.initrd else []
    return argv + disk_controllers.argv(spec.disks, boots=spec.image is not None, logged=spec.icount is not None)


def foreground_argv(log: str) -> list[str]:
    """Serial console and QEMU's monitor (Ctrl-A c) share the terminal; the console is logged too."""
    chardev = f"stdio,id=console,mux=on,signal=off,logfile={value(log)}"
    return ["-chardev", chardev, "-serial", "chardev:console", "-monitor", "chardev:console"]


def terminal_argv() -> list[str]:
    """The same without a log: what a user pastes."""
    return ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console",
            "-monitor", "chardev:console"]  # fmt: skip


def screen_argv(log: str) -> list[str]:
    """The curses display has the terminal, QEMU's monitor is its second screen, the serial port goes to a file."""
    return [*detached_argv(log), "-monitor", "vc"]


def detached_argv(log: str) -> list[str]:
    """The serial console goes to a file."""
    return ["-chardev", f"file,id=console,path={value(log)}", "-serial", "chardev:console"]


def control_argv(socket: str) -> list[str]:
    """The control socket, which ps and stop use."""
    return ["-chardev", f"socket,id=control,path={value(socket)},server=on,wait=off",
            "-qmp", "chardev:control"]  # fmt: skip
