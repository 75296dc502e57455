"""QEMU's command line for a guest. Nothing here runs anything.

The console is the first serial port, the kernel's debugger the second, each a UNIX socket. The machine has one
processor: NetBSD's kgdb doesn't stop others.
"""

from __future__ import annotations

from rumplab.guest.definition import LINUX, NETBSD, Guest
from rumplab.guest.kernels import Kernel
from rumplab.guest.lines import CONSOLE, DEBUGGER, socket_path
from rumplab.machine import qemu_argv
from rumplab.machine.qemu_argv import Spec, value
from rumplab.machine.registry import Machine

ROOT_DRIVE = "root0"
SPEED = 115200
# What the root device is called, behind the disk that boots and without one.
ROOTS = {NETBSD: ("wd1a", "wd0a"), LINUX: ("/dev/sdb", "/dev/sda")}


def root_device(guest: Guest, kernel: Kernel, boot_disk: bool) -> str | None:
    """The guest's name of its root device; None for a guest without a disk."""
    if guest.root or kernel.disk is None:
        return guest.root
    behind, alone = ROOTS[guest.kind]
    return behind if boot_disk else alone


def command_line(guest: Guest, root: str | None, waits: bool) -> str:
    """What a kernel that boots directly is told. With `waits` it stops in its debugger first."""
    rest = [guest.append] if guest.append else []
    if guest.kind == LINUX:
        words = [f"console=ttyS0,{SPEED}", f"kgdboc=ttyS1,{SPEED}", "nokaslr"]
        # A breakpoint that is set before the kernel protects its text could not be taken out afterwards.
        words += ["kgdbwait", "rodata=off"] if waits else []
        return " ".join([*words, *([f"root={root}"] if root else []), *rest])
    # NetBSD takes flags only where they stand first.
    words = ["-d"] if waits else []
    words += [f"root={root}"] if root else []
    return " ".join([*words, "console=com", f"console_speed={SPEED}", *rest])


def disk_argv(path: str, kind: str, snapshot: bool) -> list[str]:
    """The root disk, on the board's own controller, behind the disk that boots if there is one."""
    drive = f"file={value(path)},format={kind},id={ROOT_DRIVE},if=none"
    return ["-drive", drive + (",snapshot=on" if snapshot else ""), "-device", f"ide-hd,drive={ROOT_DRIVE}"]


def port_argv(name: str, path: str, log: str | None = None) -> list[str]:
    """A serial port on a UNIX socket, which one client at a time can open; all it says goes to `log` too."""
    logged = f",logfile={value(log)}" if log else ""
    return ["-chardev", f"socket,id={name},path={value(path)},server=on,wait=off{logged}", "-serial", f"chardev:{name}"]


def machine_argv(spec: Spec, guest: Guest, kernel: Kernel, disk: tuple[str, str, bool] | None) -> list[str]:
    """The machine without its serial ports. `disk` is the root disk's file, its format, and whether writes to
    it are thrown away."""
    argv = [*qemu_argv.machine_argv(spec), "-smp", "1"]
    argv += ["-initrd", guest.initrd] if guest.initrd else []
    argv += disk_argv(*disk) if disk else []
    argv += ["-cdrom", kernel.cdrom] if kernel.cdrom else []
    return argv


def running_argv(machine: Machine) -> list[str]:
    """The ports and the control socket of a machine with a record."""
    return [
        *port_argv(CONSOLE, str(socket_path(machine, CONSOLE)), str(machine.serial_log)),
        *port_argv(DEBUGGER, str(socket_path(machine, DEBUGGER))),
        *qemu_argv.control_argv(str(machine.socket)),
    ]


def standalone_argv(name: str) -> list[str]:
    """The ports of a command that a user pastes: console on the terminal, debugger in the working directory."""
    return [*qemu_argv.terminal_argv(), *port_argv(DEBUGGER, f"{name}-{DEBUGGER}.sock")]
