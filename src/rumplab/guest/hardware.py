"""QEMU's command line for a guest. Nothing here runs anything.

The first serial port is the console, the second is the line of the kernel's debugger; each is a UNIX socket. The
machine has one processor, because NetBSD's kgdb doesn't stop the other ones.
"""

from __future__ import annotations

from dataclasses import replace

from rumplab.guest.definition import LINUX, NETBSD, Guest
from rumplab.guest.kernels import Kernel
from rumplab.guest.lines import CONSOLE, DEBUGGER, pipe_path, socket_path
from rumplab.machine import disk_controllers, qemu_argv
from rumplab.machine.disk_controllers import Disk
from rumplab.machine.qemu_argv import Spec, value
from rumplab.machine.registry import Machine

ROOT_DRIVE = "root0"
# The console, and the line of the kernel's debugger.
PORTS = 2
SPEED = 115200
# The name of the root device: after a boot disk, and without a boot disk.
ROOTS = {NETBSD: ("wd1a", "wd0a"), LINUX: ("/dev/sdb", "/dev/sda")}


def root_device(guest: Guest, kernel: Kernel, boot_disk: bool) -> str | None:
    """The guest's name of its root device; None for a guest without a disk."""
    if guest.root or kernel.disk is None:
        return guest.root
    behind, alone = ROOTS[guest.kind]
    return behind if boot_disk else alone


def command_line(guest: Guest, root: str | None, waits: bool) -> str:
    """The command line of a kernel that boots directly. With `waits`, the kernel stops in its debugger first."""
    rest = [guest.append] if guest.append else []
    if guest.kind == LINUX:
        words = [f"console=ttyS0,{SPEED}", f"kgdboc=ttyS1,{SPEED}", "nokaslr"]
        # After the kernel has made its text read-only, kgdb can't remove a breakpoint that was set before.
        words += ["kgdbwait", "rodata=off"] if waits else []
        return " ".join([*words, *([f"root={root}"] if root else []), *rest])
    # NetBSD reads flags only at the start of the command line.
    words = ["-d"] if waits else []
    words += [f"root={root}"] if root else []
    return " ".join([*words, "console=com", f"console_speed={SPEED}", *rest])


def disk_argv(path: str, kind: str, snapshot: bool) -> list[str]:
    """The options for the root disk. It is on the board's IDE controller, after the boot disk if there is one."""
    drive = f"file={value(path)},format={kind},id={ROOT_DRIVE},if=none"
    return ["-drive", drive + (",snapshot=on" if snapshot else ""), "-device", f"ide-hd,drive={ROOT_DRIVE}"]


def port_argv(name: str, path: str, log: str | None = None) -> list[str]:
    """The options for a serial port on a UNIX socket, which serves one client at a time. Its output also goes to
    `log`."""
    logged = f",logfile={value(log)}" if log else ""
    return ["-chardev", f"socket,id={name},path={value(path)},server=on,wait=off{logged}", "-serial", f"chardev:{name}"]


def machine_argv(spec: Spec, guest: Guest, kernel: Kernel, disk: tuple[str, str, bool] | None) -> list[str]:
    """The options for the machine without its serial ports. `disk` is the root disk's file, its format, and whether
    QEMU discards writes to it."""
    argv = [*qemu_argv.machine_argv(spec), "-smp", "1"]
    argv += ["-initrd", guest.initrd] if guest.initrd else []
    argv += disk_argv(*disk) if disk else []
    argv += ["-cdrom", kernel.cdrom] if kernel.cdrom else []
    return argv


def recorded_spec(spec: Spec, guest: Guest, kernel: Kernel, disk: tuple[str, str, bool] | None) -> Spec:
    """The whole machine as data, for a recording: `spec` with the rest of `machine_argv`."""
    drives = [Disk(disk[0], disk[1], disk_controllers.IDE, disk[2])] if disk else []
    drives += [Disk(kernel.cdrom, "raw", disk_controllers.CDROM)] if kernel.cdrom else []
    return replace(spec, initrd=guest.initrd, drives=tuple(drives))


def running_argv(machine: Machine) -> list[str]:
    """The options for the serial ports and the QMP socket of the machine with this record."""
    console = port_argv(CONSOLE, str(socket_path(machine, CONSOLE)), str(machine.serial_log))
    debugger = port_argv(DEBUGGER, str(socket_path(machine, DEBUGGER)))
    if machine.recording:
        console = ["-chardev", f"pipe,id={CONSOLE},path={value(str(pipe_path(machine)))}"]
        console += ["-serial", f"chardev:{CONSOLE}"]
        debugger = qemu_argv.unused_port_argv(DEBUGGER)
    return [*console, *debugger, *qemu_argv.control_argv(str(machine.socket))]


def standalone_argv(name: str) -> list[str]:
    """The options for the serial ports of a command that a user pastes into a shell: the console is the terminal, the
    debugger's socket is in the working directory."""
    return [*qemu_argv.terminal_argv(), *port_argv(DEBUGGER, f"{name}-{DEBUGGER}.sock")]
