"""``rumplab run``: a machine from an image or a program."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from rumplab.cli import drive_options, network_options
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
from rumplab.recording import devices, ending, making, store
from rumplab.recording import record as recordings
from rumplab.recording.emulator import identify
from rumplab.recording.making import Wanted

EPILOG = """\
The machine: a PC with an e1000 (54:54:00:55:55:55) behind a PCI bridge, user network 192.168.76.0/24, and a debug stub
that only you can reach, by 'rumplab debug'. Options change each part of it.

Its console is the serial port, on this terminal (Ctrl-A x ends QEMU, Ctrl-A c is its monitor), and there is no VGA
card: programs and staged images. Any other image, and a CD, has its console on the screen of a VGA card, on this
terminal too (Alt-2 is QEMU's monitor, where 'quit' ends it; Alt-1 leads back). --console chooses.

examples:
  rumplab run hello.img                       on this terminal
  rumplab run hello.img --wait --detach       in the background, stopped before its first instruction
  rumplab run hello.bin --args '{"cmdline": "hello"}'
  rumplab run hello.img --disk mpt --nic virtio --no-pci-bridge
  rumplab run hello.img --console vga --detach     with a screen: see 'rumplab screen' and 'rumplab type'
  rumplab run hello.bin --drive data.img --config hello.yml    with a disk, and what rumprun is to mount
  rumplab run hello.img --drive a.img,disk=mpt --drive b.qcow2,snapshot
  rumplab run hello.img --forward 8080:80     the guest's port 80 on 127.0.0.1:8080
  rumplab run hello.img --net bridge --nic e1000 --nic e1000,net=user
  rumplab run hello.img --dry-run             print the command instead
  rumplab run hello.img --record              and repeat it: see 'rumplab replay' and 'rumplab recording'
  rumplab run hello.img -- -smp 2             more arguments for QEMU
"""
TAKES_EXTRA = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab run IMAGE|PROGRAM [OPTION…] [-- QEMU-ARGUMENT…]"
    parser.add_argument("image", metavar="IMAGE|PROGRAM", help="a disk or CD image, or an ELF program to boot directly")
    parser.add_argument(
        "--args",
        metavar="STRING",
        help="a PROGRAM's command line (an image has its own); where it begins with '-': --args=-d",
    )
    parser.add_argument(
        "--config", metavar="FILE.yml", type=Path, help="rumprun's configuration, for a PROGRAM (see stage --rumprun)"
    )
    parser.add_argument(
        "--rumprun-schema",
        choices=rumprun_file.SCHEMAS,
        help="which JSON to make of it: rumprun's newer (the default) or older one",
    )
    parser.add_argument(
        "--console",
        choices=consoles.CHOICES,
        default=consoles.AUTO,
        help="serial: without a VGA card; vga: the screen of one; auto, the default: by what boots",
    )
    parser.add_argument("--wait", action="store_true", help="stop before the first instruction, for a debugger")
    parser.add_argument("--detach", action="store_true", help="run in the background: see ps, logs, stop")
    parser.add_argument("--name", help="the machine's name (default: made from the file's)")
    parser.add_argument("--memory", type=memory, default="128M", metavar="SIZE", help="default: %(default)s")
    parser.add_argument("--disk", choices=disk_controllers.CHOICES, help="an IMAGE's controller (default: virtio)")
    drive_options.add_arguments(parser)
    parser.add_argument(
        "--format", choices=recognise.FORMATS, help="of an IMAGE (default: as on record; see docs/commands/run.md)"
    )
    parser.add_argument(
        "--allow-backing", action="store_true", help="take disks that name other files, as a qcow2 over another disk"
    )
    parser.add_argument("--snapshot", action="store_true", help="throw writes to all disks away")
    parser.add_argument(
        "--accel",
        choices=accel.ACCELS,
        default="auto",
        help="auto, the default: the quickest that works here",
    )
    parser.add_argument(
        "--gdb-port",
        type=port,
        metavar="PORT",
        help="the debug stub on this TCP port of 127.0.0.1, where every user of this host has it",
    )
    parser.add_argument("--symbols", metavar="FILE", help="the ELF file whose symbols debug loads")
    parser.add_argument(
        "--exit-device",
        action="store_true",
        help="let the guest end QEMU: a byte v written to port 0xf4 is status 2v+1",
    )
    parser.add_argument(
        "--record",
        nargs="?",
        const="",
        metavar="DIR",
        help="record the run, to repeat it: in a new directory DIR, or among your recordings; the default card is a"
        f" {devices.DEFAULT_NIC} then",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the QEMU command and do nothing")
    network_options.add_arguments(parser)


def further_disks(args: argparse.Namespace, lab: Lab) -> tuple[Disk, ...]:
    """What --drive asks for."""
    found = (drive_options.disk(wanted, lab, args.allow_backing) for wanted in args.drive)
    return tuple(replace(disk, snapshot=disk.snapshot or args.snapshot) for disk in found)


def make_spec(
    args: argparse.Namespace, found: boot_media.Media, emulator: str, drives: tuple[Disk, ...] = ()
) -> qemu_argv.Spec:
    """The machine that the command line asks for, without a debug port yet. UsageError for contradictions."""
    is_program = found.format is None
    if is_program and (args.disk not in (None, disk_controllers.NONE) or (args.snapshot and not drives)):
        raise UsageError(
            f"{args.image} is a program and has no disk; give it one with --drive FILE, or make an image of it with"
            " 'rumplab stage'"
        )
    if not is_program and args.disk == disk_controllers.NONE:
        raise UsageError(f"{args.image} is a disk image: --disk none would leave nothing to boot")
    if not is_program and args.args is not None:
        raise UsageError("--args is for a program; an image's command line is set by 'rumplab stage --args'")
    if not is_program and args.config is not None:
        raise UsageError("--config is for a program; an image's configuration is set by 'rumplab stage --rumprun'")
    if args.config is None and args.rumprun_schema is not None:
        raise UsageError("--rumprun-schema is for --config FILE.yml, which is missing")
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
    """RumplabError for what can't boot, in words that QEMU and a BIOS don't have. More arguments for QEMU may change
    what boots."""
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
    """The program that debug loads and the sha256 it had when it was staged, where known."""
    if args.symbols is None:
        return found.program, found.program_sha256
    chosen = boot_media.inspect(args.symbols)
    if chosen.format is not None:
        raise UsageError(f"{args.symbols} is not an ELF file, so it has no symbols to load")
    return chosen.path, None


def wanted(args: argparse.Namespace, spec: qemu_argv.Spec, found: boot_media.Media) -> Machine:
    """The record of `spec` as far as the command line says it; Machines.claim does the rest."""
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
    """The QEMU command as a line for a shell, behind one that makes the file `module` if the program gets one. It
    stands alone: no record, no control socket."""
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
    recording = args.record is not None
    cards = network_options.cards(args, platform, devices.DEFAULT_NIC if recording else nics.Nic.model)
    qemu_argv.check_extra(args.extra)
    lab = config.load()
    component = lab.component("qemu")
    emulator = component.path("qemu-system-x86_64")
    if args.name is not None:
        check_name(args.name)
    found = recorded.settle(lab, args.image, args.format, args.allow_backing)
    if found.cd and args.disk is not None:
        # A hybrid is a disk's image, too.
        found = replace(found, cd=False)
    spec = make_spec(args, found, emulator, further_disks(args, lab))
    module = rumprun_file.make(args.config, args.rumprun_schema, lab, "--config") if args.config else None
    if recording:
        making.check(replace(spec, nics=cards), args.allow_backing)
        if spec.vga and not args.detach:
            raise UsageError("the screen of a machine that is recorded isn't shown on a terminal; add --detach")
        spec = replace(spec, accel=devices.ACCEL)
    if spec.vga and not args.detach:
        spec = replace(spec, display=consoles.CURSES)
        if not args.dry_run:
            consoles.check_terminal(emulator, lab.provision)
    bridged = any(card.net == nics.BRIDGE for card in cards)
    way = attachment.find(lab, args.vmnet, platform) if bridged else None
    # Before the accelerators are tried, which may take seconds.
    if way and not args.dry_run:
        attachment.check(way, os.geteuid())
    machines = open_machines(lab)
    spec = replace(spec, nics=cards, link=way.link if way else None)
    record = wanted(args, spec, found)
    if spec.accel == "auto":
        spec = replace(spec, accel=accel.decide(emulator, component.version, machines.root).chosen)
        record = replace(record, accel=spec.accel)
    # A printed command has QEMU run the helper itself.
    helped = args.dry_run and spec.link is not None and spec.link.spawns
    closed = sandbox.choose(emulator, component.version, machines.root, helped, spec.extra, platform)
    spec = replace(spec, sandbox=closed)
    if spec.gdb_port:
        ports.warn_of_stub(spec.gdb_port)
    network_options.warn(cards)
    seen = macs.learned(way.bridge) if way and way.bridge else frozenset()
    if recording:
        return run_recorded(args, lab, machines, Wanted(spec, record, module), way, seen)
    if args.dry_run:
        cards = addressed(cards, record.name, machines.all(), seen)
        file = f"{record.name}.config.json"
        spec = replace(spec, nics=cards, stub=f"{record.name}.gdb.sock")
        spec = replace(spec, initrd=f"./{file}" if module else None)
        say_disks(spec)
        script(command(spec, args.detach, (file, module) if module else None) + "\n")
        return 0
    machine = machines.claim(record, numbered=args.name is None, seen_macs=seen)
    spec = replace(spec, stub=machine.stub, nics=machine.nics)
    say_disks(spec)
    with attachment.opened(way, cards) as link, module_file(module) as descriptor:
        spec = replace(spec, link=link, initrd=f"/dev/fd/{descriptor}" if descriptor is not None else None)
        argv = [
            *qemu_argv.machine_argv(spec),
            *ports_argv(spec, str(machine.serial_log), args.detach),
            *qemu_argv.control_argv(str(machine.socket)),
            *spec.extra,
        ]
        passed = (*(link.taps if link else ()), *(() if descriptor is None else (descriptor,)))
        if args.detach:
            return start_detached(machines, machine, argv, passed)
        return start(machines, machine, argv, passed, args)


def run_recorded(
    args: argparse.Namespace,
    lab: Lab,
    machines: Machines,
    wanted: Wanted,
    way: Attachment | None,
    seen: Collection[str],
) -> int:
    """The same of a run that is recorded."""
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
        say_disks(wanted.spec)
        with attachment.opened(way, wanted.spec.nics) as link:
            argv = [
                *making.argv(replace(wanted, spec=replace(wanted.spec, link=link)), not args.detach),
                *qemu_argv.control_argv(str(machine.socket)),
            ]
            with machines.claimed(machine):
                making.make(directory, wanted, argv, emulator)
            passed = link.taps if link else ()
            if args.detach:
                code = start_detached(machines, machine, argv, passed, str(directory))
            else:
                code = start(machines, machine, argv, passed, args, str(directory))
    say_recorded(recordings.read(directory), machines, shlex.quote(args.record or directory.name))
    return code


def say_recorded(recording: recordings.Recording, machines: Machines, name: str) -> None:
    """Says what is, or has been recorded, and what to do with it: `name` is what the commands take."""
    if ending.runs(recording, machines):
        print(f"it is being recorded: rumplab recording show {name}")
        return
    done = ending.settled(recording, machines)
    if done.end is not None:
        print(
            f"rumplab: recorded {name}: {done.end.instructions} instructions; repeat it with: rumplab replay {name};"
            f" debug it with: rumplab debug {name} --replay",
            file=sys.stderr,
        )


def ports_argv(spec: qemu_argv.Spec, log: str, detach: bool) -> list[str]:
    """The serial port, and QEMU's monitor where it is for people."""
    if detach:
        return qemu_argv.detached_argv(log)
    return qemu_argv.screen_argv(log) if spec.vga else qemu_argv.foreground_argv(log)


@contextlib.contextmanager
def module_file(content: bytes | None) -> Iterator[int | None]:
    """A file that has `content` and no name, as a descriptor. QEMU takes the path of a module apart at commas and
    blanks, and the record's directory may have either."""
    if content is None:
        yield None
        return
    # Only here: few starts need it.
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


def say_disks(spec: qemu_argv.Spec) -> None:
    """Names the disks in the guest's order where there is more than the one that boots."""
    if not spec.drives:
        return
    for name, disk in sorted(zip(disk_controllers.names(spec.disks), spec.disks)):
        print(f"rumplab: disk {name}: {disk.file} ({disk.controller})", file=sys.stderr)


def start_detached(
    machines: Machines, machine: Machine, argv: list[str], passed: tuple[int, ...], directory: str | None = None
) -> int:
    running = launch.detached(machines, machine, argv, passed, directory)
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
    machines: Machines,
    machine: Machine,
    argv: list[str],
    passed: tuple[int, ...],
    args: argparse.Namespace,
    directory: str | None = None,
) -> int:
    print(
        f"rumplab: {machine.name}: console {machine.console}; attach with: rumplab debug {machine.name}",
        file=sys.stderr,
    )
    code = launch.foreground(machines, machine, argv, passed, directory)
    if code and not args.exit_device and code < 128:
        raise RumplabError(f"QEMU ended with status {code}; what it said stands above")
    return code
