"""``rumplab run``: starts a machine that boots an image or a program."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from rumplab.cli import drive_options, network_options, panic_options, record_options
from rumplab.cli.arguments import memory, port
from rumplab.errors import RumplabError, UsageError
from rumplab.host import ports
from rumplab.host.streams import script
from rumplab.image import multiboot, recognise, recorded, rumprun_file
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine import accel, boot_media, consoles, disk_controllers, launch, macs, nics, qemu_argv, sandbox
from rumplab.machine.disk_controllers import Disk
from rumplab.machine.registry import Machine, Machines, addressed, base_name, check_name, open_machines
from rumplab.network import attachment
from rumplab.network.attachment import Attachment
from rumplab.postmortem import panic_policy
from rumplab.postmortem.panic_policy import PanicPolicy
from rumplab.recording import devices, making, store
from rumplab.recording import record as recordings
from rumplab.recording.emulator import identify
from rumplab.recording.making import Wanted

EPILOG = """\
The machine is a PC with an e1000 (54:54:00:55:55:55) behind a PCI bridge, on the user network 192.168.76.0/24, and with
a debug stub that only you can reach: 'rumplab debug' attaches to it. The options change each part.

Without --detach, this terminal shows the console. For a PROGRAM and for an IMAGE that 'rumplab stage' made, that is the
serial port, and the machine has no VGA card: Ctrl-A x ends QEMU, Ctrl-A c switches to its monitor and back. For any
other image and for a CD, it is the screen of a VGA card: Alt-2 switches to QEMU's monitor, where 'quit' ends QEMU, and
Alt-1 switches back. --console overrides the choice.

examples:
  rumplab run hello.img                       on this terminal
  rumplab run hello.img --wait --detach       in the background, stopped before its first instruction
  rumplab run hello.bin --args '{"cmdline": "hello"}'
  rumplab run hello.img --disk mpt --nic virtio --no-pci-bridge
  rumplab run hello.img --console vga --detach     with a screen: see 'rumplab screen' and 'rumplab type'
  rumplab run hello.bin --drive data.img --config hello.yml    with a disk, which rumprun's configuration mounts
  rumplab run hello.img --drive a.img,disk=mpt --drive b.qcow2,snapshot
  rumplab run hello.img --forward 8080:80     the guest's port 80 on 127.0.0.1:8080
  rumplab run hello.img --net bridge --nic e1000 --nic e1000,net=user
  rumplab run hello.img --on-panic dump --panic-pattern 'panic:'    a dump, a trace and status 4 after a failure
  rumplab run hello.img --dry-run             print the command instead
  rumplab run hello.img --record              see 'rumplab replay', 'rumplab recording' and 'debug --replay'
  rumplab run hello.img -- -smp 2             more arguments for QEMU
"""
TAKES_EXTRA = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab run IMAGE|PROGRAM [OPTION…] [-- QEMU-ARGUMENT…]"
    parser.add_argument("image", metavar="IMAGE|PROGRAM", help="a disk or CD image, or an ELF program to boot directly")
    parser.add_argument(
        "--args",
        metavar="STRING",
        help="a PROGRAM's command line (an image has its own); if it begins with '-', write --args=-d",
    )
    parser.add_argument(
        "--config",
        metavar="FILE.yml",
        type=Path,
        help="rumprun's configuration for a PROGRAM, in YAML (as stage --rumprun)",
    )
    parser.add_argument(
        "--rumprun-schema",
        choices=rumprun_file.SCHEMAS,
        help="the JSON schema that --config is converted to: rumprun's newer one (the default) or its older one",
    )
    parser.add_argument(
        "--console",
        choices=consoles.CHOICES,
        default=consoles.AUTO,
        help="serial: the serial port, without a VGA card; vga: the screen of a VGA card; auto, the default: serial for"
        " a PROGRAM and for an IMAGE that 'stage' made, else vga",
    )
    parser.add_argument(
        "--wait", action="store_true", help="stop before the first instruction, until a debugger continues"
    )
    parser.add_argument("--detach", action="store_true", help="run in the background: see ps, logs, stop")
    parser.add_argument("--name", help="the machine's name (default: made from the file's name)")
    parser.add_argument(
        "--memory",
        type=memory,
        default="128M",
        metavar="SIZE",
        help="in MiB, or with M or G behind it (default: %(default)s)",
    )
    parser.add_argument("--disk", choices=disk_controllers.CHOICES, help="the IMAGE's controller (default: virtio)")
    drive_options.add_arguments(parser)
    parser.add_argument(
        "--format",
        choices=recognise.FORMATS,
        help="the IMAGE's format (default: the one that rumplab has recorded for it)",
    )
    parser.add_argument(
        "--allow-backing",
        action="store_true",
        help="accept disks that name other files, such as a qcow2 with a backing file",
    )
    parser.add_argument("--snapshot", action="store_true", help="discard all writes to the disks when the machine ends")
    parser.add_argument(
        "--accel",
        choices=accel.ACCELS,
        default="auto",
        help="auto, the default: the fastest one that works here",
    )
    parser.add_argument(
        "--gdb-port",
        type=port,
        metavar="PORT",
        help="put the debug stub on this TCP port of 127.0.0.1, where every user of this host can attach",
    )
    parser.add_argument("--symbols", metavar="FILE", help="the ELF file with the symbols for 'rumplab debug'")
    parser.add_argument(
        "--exit-device",
        action="store_true",
        help="a guest that writes a byte v to port 0xf4 ends QEMU with exit status 2v+1",
    )
    panic_options.add_success(parser)
    panic_options.add_arguments(parser)
    record_options.add_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the QEMU command and do nothing")
    network_options.add_arguments(parser)


def further_disks(args: argparse.Namespace, lab: Lab) -> tuple[Disk, ...]:
    """Returns the disks that --drive asks for."""
    found = (drive_options.disk(wanted, lab, args.allow_backing) for wanted in args.drive)
    return tuple(replace(disk, snapshot=disk.snapshot or args.snapshot) for disk in found)


def make_spec(
    args: argparse.Namespace, found: boot_media.Media, emulator: str, drives: tuple[Disk, ...] = ()
) -> qemu_argv.Spec:
    """Returns the machine that the command line asks for, without its network and the socket of the debug stub.
    UsageError for options that contradict each other."""
    is_program = found.format is None
    if is_program and (args.disk not in (None, disk_controllers.NONE) or (args.snapshot and not drives)):
        raise UsageError(
            f"{args.image} is a program and has no disk; give it one with --drive FILE, or make an image of it with"
            " 'rumplab stage'"
        )
    if not is_program and args.disk == disk_controllers.NONE:
        raise UsageError(f"{args.image} is a disk image: --disk none would leave nothing to boot; leave --disk out")
    if not is_program and args.args is not None:
        raise UsageError("--args is for a program; an image's command line is set by 'rumplab stage --args'")
    if not is_program and args.config is not None:
        raise UsageError("--config is for a program; an image's configuration is set by 'rumplab stage --rumprun'")
    if args.config is None and args.rumprun_schema is not None:
        raise UsageError("--rumprun-schema is for --config FILE.yml, which is missing; add it")
    check_boots(args, found)
    spec = qemu_argv.Spec(
        qemu=emulator,
        gdb_port=args.gdb_port or 0,
        accel=args.accel,
        memory=args.memory,
        image=None if is_program else os.path.realpath(found.path),
        image_format=found.format or "raw",
        program=found.path if is_program else None,
        arguments=args.args,
        disk=args.disk or (disk_controllers.CDROM if found.cd else disk_controllers.DEFAULT),
        snapshot=args.snapshot,
        drives=drives,
        vga=consoles.choose(args.console, found) == consoles.VGA,
        pci_bridge=not args.no_pci_bridge,
        wait=args.wait,
        exit_device=args.exit_device,
        extra=tuple(args.extra),
    )
    disk_controllers.check(spec.disks)
    return spec


def check_boots(args: argparse.Namespace, found: boot_media.Media) -> None:
    """Raises RumplabError if the file can't boot: QEMU and the BIOS print no useful message then. Checks nothing if
    there are more arguments for QEMU, since they may change what boots."""
    if args.extra:
        return
    if found.format is None:
        problem = multiboot.direct_problem(found.path)
        if problem:
            raise RumplabError(f"{args.image} {problem}")
    elif found.format == recognise.RAW and not recognise.boots(found.path):
        raise RumplabError(
            f"{args.image} has no boot sector (55 AA at its end), so that no BIOS boots it; 'rumplab stage' makes an"
            " image that boots"
        )


def symbols(args: argparse.Namespace, found: boot_media.Media) -> tuple[str | None, str | None]:
    """Returns the program whose symbols debug loads, and its SHA-256 when it was staged; None for what is unknown."""
    if args.symbols is None:
        return found.program, found.program_sha256
    chosen = boot_media.inspect(args.symbols)
    if chosen.format is not None:
        raise UsageError(f"{args.symbols} is not an ELF file, so it has no symbols; name the ELF file of the program")
    return chosen.path, None


def machine_record(args: argparse.Namespace, spec: qemu_argv.Spec, found: boot_media.Media) -> Machine:
    """Returns the record for `spec`, as far as the command line determines it. Machines.claim completes it."""
    program, digest = symbols(args, found)
    if ("tcp", spec.gdb_port) in {(forward.protocol, forward.host) for forward in args.forward}:
        raise UsageError(f"--gdb-port and --forward both ask for port {spec.gdb_port}; change one of them")
    return Machine(
        name=args.name or base_name(found.path),
        directory="",
        gdb_port=spec.gdb_port,
        image=spec.image,
        program=program,
        program_sha256=digest,
        snapshot=any(not disk.writes for disk in spec.disks[:1]) if spec.image else False,
        drives=spec.drives,
        console=consoles.VGA if spec.vga else consoles.SERIAL,
        nics=spec.nics,
        accel=spec.accel,
    )


def command(spec: qemu_argv.Spec, detach: bool, module: tuple[str, bytes] | None = None) -> str:
    """Returns the QEMU command as a line for a shell. If the program gets the `module`, (file name, content), a line
    before it makes that file. The command works without rumplab: it has no record and no control socket."""
    log = f"{Path(spec.image or spec.program or '').name}.serial.log"
    if detach and spec.sandbox:
        spec = replace(spec, sandbox=sandbox.DAEMON)
    argv = qemu_argv.machine_argv(spec)
    if detach:
        argv += ["-serial", f"file:{log}", "-daemonize"]
    else:
        argv += qemu_argv.screen_argv(log) if spec.vga else qemu_argv.terminal_argv()
    line = shlex.join([*argv, *spec.extra])
    return line if module is None else f"printf %s {shlex.quote(module[1].decode())} >{shlex.quote(module[0])}\n{line}"


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    recording = record_options.check(args)
    cards = network_options.cards(args, platform, devices.DEFAULT_NIC if recording else nics.Nic.model)
    qemu_argv.check_extra(args.extra)
    lab = config.load()
    policy = panic_options.policy(args, lab, args.detach)
    component = lab.component("qemu")
    emulator = component.path("qemu-system-x86_64")
    if args.name is not None:
        check_name(args.name)
    found = recorded.settle(lab, args.image, args.format, args.allow_backing)
    if found.cd and args.disk is not None:
        # With --disk, a hybrid image is a disk instead of a CD.
        found = replace(found, cd=False)
    spec = make_spec(args, found, emulator, further_disks(args, lab))
    module = rumprun_file.make(args.config, args.rumprun_schema, lab, "--config") if args.config else None
    if recording:
        making.check(replace(spec, nics=cards))
        if spec.vga and not args.detach:
            raise UsageError("a terminal can't show the screen of a machine with --record; add --detach")
        spec = replace(spec, accel=devices.ACCEL)
    if spec.vga and not args.detach:
        spec = replace(spec, display=consoles.CURSES)
        if not args.dry_run:
            consoles.check_terminal(emulator, lab.provision)
    bridged = any(card.net == nics.BRIDGE for card in cards)
    attached = attachment.find(lab, args.vmnet, platform) if bridged else None
    # Check this before the probe of the accelerators, which may take seconds.
    if attached and not args.dry_run:
        attachment.check(attached, os.geteuid())
    machines = open_machines(lab)
    spec = replace(spec, nics=cards, link=attached.link if attached else None)
    record = machine_record(args, spec, found)
    if spec.accel == "auto":
        spec = replace(spec, accel=accel.decide(emulator, component.version, machines.root).chosen)
        record = replace(record, accel=spec.accel)
    # In a printed command, QEMU itself runs the bridge helper.
    helped = args.dry_run and spec.link is not None and spec.link.spawns
    closed = sandbox.choose(emulator, component.version, machines.root, helped, spec.extra, platform)
    spec = replace(spec, sandbox=closed)
    if spec.gdb_port:
        ports.warn_of_stub(spec.gdb_port)
    network_options.warn(cards)
    seen = macs.learned(attached.bridge) if attached and attached.bridge else frozenset()
    if recording:
        return run_recorded(args, lab, machines, Wanted(spec, record, module), attached, seen)
    if args.dry_run:
        cards = addressed(cards, record.name, machines.all(), seen)
        file = f"{record.name}.config.json"
        spec = replace(spec, nics=cards, stub=f"{record.name}.gdb.sock")
        spec = replace(spec, initrd=f"./{file}" if module else None)
        print_disks(spec)
        script(command(spec, args.detach, (file, module) if module else None) + "\n")
        return 0
    machine = machines.claim(record, numbered=args.name is None, seen_macs=seen)
    spec = replace(spec, stub=machine.stub, nics=machine.nics)
    if policy is not None:
        panic_policy.record(machine, policy)
        # The watcher continues the machine, and reads the byte that ends it.
        spec = replace(spec, wait=True, exit_device=False, extra=(*panic_policy.argv(machine, policy), *spec.extra))
    print_disks(spec)
    with attachment.opened(attached, cards) as link, module_file(module) as descriptor:
        spec = replace(spec, link=link, initrd=f"/dev/fd/{descriptor}" if descriptor is not None else None)
        argv = [
            *qemu_argv.machine_argv(spec),
            *ports_argv(spec, str(machine.serial_log), args.detach),
            *qemu_argv.control_argv(str(machine.socket)),
            *spec.extra,
        ]
        passed = (*(link.taps if link else ()), *(() if descriptor is None else (descriptor,)))
        if args.detach:
            return start_detached(machines, machine, argv, passed, policy=policy)
        return start(lab, machines, machine, argv, passed, args, policy=policy)


def run_recorded(
    args: argparse.Namespace,
    lab: Lab,
    machines: Machines,
    wanted: Wanted,
    attached: Attachment | None,
    seen: Collection[str],
) -> int:
    """Runs and records the machine, and returns the exit status; with --dry-run, prints the commands."""
    if args.dry_run:
        record = wanted.record
        cards = addressed(wanted.spec.nics, record.name, machines.all(), seen)
        wanted = replace(wanted, spec=replace(wanted.spec, nics=cards, stub=f"{record.name}.gdb.sock"))
        directory = args.record or f"{record.name}.recording"
        script(making.shell(directory, wanted, making.argv(wanted, not args.detach)) + "\n")
        return 0
    known = devices.explain_nics(wanted.spec.nics, bool(args.nic))
    if known:
        print(f"rumplab: {known}", file=sys.stderr)
    with store.new(lab, args.record, wanted.record.name) as directory:
        emulator = identify(wanted.spec.qemu)
        machine = machines.claim(
            replace(wanted.record, recording=str(directory)), numbered=args.name is None, seen_macs=seen
        )
        wanted = replace(wanted, record=machine, spec=replace(wanted.spec, stub=machine.stub, nics=machine.nics))
        print_disks(wanted.spec)
        with attachment.opened(attached, wanted.spec.nics) as link:
            argv = [
                *making.argv(replace(wanted, spec=replace(wanted.spec, link=link)), not args.detach),
                *qemu_argv.control_argv(str(machine.socket)),
            ]
            with machines.claimed(machine):
                making.make(directory, wanted, argv, emulator)
            passed = link.taps if link else ()
            if args.detach:
                code = start_detached(machines, machine, argv, passed, directory=str(directory))
            else:
                code = start(lab, machines, machine, argv, passed, args, directory=str(directory))
    record_options.print_state(recordings.read(directory), machines, shlex.quote(args.record or directory.name))
    return code


def ports_argv(spec: qemu_argv.Spec, log: str, detach: bool) -> list[str]:
    """Returns the options of the serial port and, in the foreground, of QEMU's monitor."""
    if detach:
        return qemu_argv.detached_argv(log)
    return qemu_argv.screen_argv(log) if spec.vga else qemu_argv.foreground_argv(log)


@contextlib.contextmanager
def module_file(content: bytes | None) -> Iterator[int | None]:
    """Yields the descriptor of a file without a name that has `content`; None if `content` is None. QEMU splits the
    path of a module at commas and blanks, and the path of the record's directory may have both."""
    if content is None:
        yield None
        return
    # Imported here because few starts need it.
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


def print_disks(spec: qemu_argv.Spec) -> None:
    """Prints each disk's name in the guest on standard error, if --drive added disks."""
    if not spec.drives:
        return
    for name, disk in sorted(zip(disk_controllers.names(spec.disks), spec.disks)):
        print(f"rumplab: disk {name}: {disk.file} ({disk.controller})", file=sys.stderr)


def start_detached(
    machines: Machines,
    machine: Machine,
    argv: list[str],
    passed: tuple[int, ...],
    policy: PanicPolicy | None = None,
    directory: str | None = None,
) -> int:
    """Starts QEMU in the background, prints what to do next, and returns the exit code. A recorded machine runs in
    `directory`."""
    running = launch.detached(machines, machine, argv, passed, directory)
    if running is not None and policy is not None:
        # Imported only here and in run_watched(), since most starts don't need it.
        from rumplab.postmortem import panic

        panic.watch_in_background(running, policy)
    if running is None:
        print(f"{machine.name} has run and ended; read its console with: rumplab logs {machine.name}")
        return 0
    stub = f", debug stub {running.stub}" if running.gdb_port else ""
    print(
        f"{running.name} runs (pid {running.pid}, {running.accel}, console {running.console}{stub}); attach with:"
        f" rumplab debug {running.name}; stop it with: rumplab stop {running.name}"
    )
    if running.console == consoles.VGA:
        print(f"its console is the screen: rumplab screen {running.name}")
    return 0


def start(
    lab: Lab,
    machines: Machines,
    machine: Machine,
    argv: list[str],
    passed: tuple[int, ...],
    args: argparse.Namespace,
    policy: PanicPolicy | None = None,
    directory: str | None = None,
) -> int:
    """Runs QEMU on this terminal and returns its exit status. RumplabError if it isn't 0, except for a signal and for
    the guest's own status with --exit-device."""
    print(
        f"rumplab: {machine.name}: console {machine.console}; attach with: rumplab debug {machine.name}",
        file=sys.stderr,
    )
    if policy is not None:
        return run_watched(lab, machines, machine, argv, passed, policy)
    code = launch.foreground(machines, machine, argv, passed, directory=directory)
    if code and not args.exit_device and code < 128:
        raise RumplabError(f"QEMU ended with status {code}; its messages are above")
    return code


def run_watched(
    lab: Lab, machines: Machines, machine: Machine, argv: list[str], passed: tuple[int, ...], policy: PanicPolicy
) -> int:
    """Runs the machine on this terminal, carries out the policy if the guest fails, and returns the exit status."""
    from rumplab.postmortem import panic

    watcher = panic.WatcherThread(lab, policy)
    code = launch.foreground(machines, machine, argv, passed, watcher.begin)
    outcome = watcher.result()
    if outcome.dump and panic_policy.DEBUG in policy.actions:
        panic.debug(lab, Path(outcome.dump))
    if outcome.cause:
        return panic_policy.FAILED
    if code and code < 128:
        raise RumplabError(f"QEMU ended with status {code}; its messages are above")
    return code or outcome.code
