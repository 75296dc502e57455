"""``rumplab run``: a machine from an image or a program."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from rumplab import accel, attachment, config, disks, launch, macs, media, netoptions, nics, ports, qemu
from rumplab.errors import RumplabError, UsageError
from rumplab.image import multiboot, recognise
from rumplab.machines import Machine, Machines, addressed, base_name, check_name, open_machines
from rumplab.streams import script

HELP = "boot an image or a program in QEMU, with a debug stub"
EPILOG = """\
The machine: a PC with an e1000 (54:54:00:55:55:55) behind a PCI bridge, user network 192.168.76.0/24, serial
console on this terminal (Ctrl-A x ends QEMU, Ctrl-A c is its monitor), debug stub on 127.0.0.1.
Options change each part of it.

examples:
  rumplab run hello.img                       on this terminal
  rumplab run hello.img --wait --detach       in the background, stopped before its first instruction
  rumplab run hello.bin --args '{"cmdline": "hello"}'
  rumplab run hello.img --disk mpt --nic virtio --no-pci-bridge
  rumplab run hello.img --forward 8080:80     the guest's port 80 on 127.0.0.1:8080
  rumplab run hello.img --net bridge --nic e1000 --nic e1000,net=user
  rumplab run hello.img --dry-run             print the command instead
  rumplab run hello.img -- -smp 2             more arguments for QEMU
"""
TAKES_EXTRA = True


def memory(text: str) -> str:
    """A size for QEMU's -m: a number of MiB, or with one of the suffixes M and G."""
    if not re.fullmatch(r"[1-9][0-9]*[MG]?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a memory size; use for example 128M or 1G")
    return text


def port(text: str) -> int:
    """A TCP port number from 1 to 65535."""
    if not re.fullmatch("[0-9]+", text) or not 1 <= int(text) <= ports.LAST_PORT:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port; use a number from 1 to {ports.LAST_PORT}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab run IMAGE|PROGRAM [OPTION…] [-- QEMU-ARGUMENT…]"
    parser.add_argument(
        "image", metavar="IMAGE|PROGRAM", help="a disk image, or an ELF program to boot directly"
    )
    parser.add_argument("--args", metavar="STRING", help="a PROGRAM's command line (an image has its own)")
    parser.add_argument(
        "--wait", action="store_true", help="stop before the first instruction, for a debugger"
    )
    parser.add_argument("--detach", action="store_true", help="run in the background: see ps, logs, stop")
    parser.add_argument("--name", help="the machine's name (default: made from the file's)")
    parser.add_argument("--memory", type=memory, default="128M", metavar="SIZE", help="default: %(default)s")
    parser.add_argument("--disk", choices=disks.CHOICES, help="an IMAGE's controller (default: virtio)")
    parser.add_argument("--snapshot", action="store_true", help="throw writes to the image away")
    parser.add_argument(
        "--accel",
        choices=accel.ACCELS,
        default="auto",
        help="auto, the default: the quickest that works here",
    )
    parser.add_argument(
        "--gdb-port", type=port, metavar="PORT", help="the debug stub's port (default: a free one)"
    )
    parser.add_argument("--symbols", metavar="FILE", help="the ELF file whose symbols debug loads")
    parser.add_argument(
        "--exit-device",
        action="store_true",
        help="let the guest end QEMU: a byte v written to port 0xf4 is status 2v+1",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the QEMU command and do nothing")
    netoptions.add_arguments(parser)


def make_spec(args: argparse.Namespace, found: media.Media, emulator: str, accelerator: str) -> qemu.Spec:
    """The machine that the command line asks for, without a debug port yet. UsageError for contradictions."""
    is_program = found.format is None
    if is_program and (args.snapshot or args.disk not in (None, disks.NONE)):
        raise UsageError(
            f"{args.image} is a program and has no disk; make an image of it with 'rumplab stage'"
        )
    if not is_program and args.disk == disks.NONE:
        raise UsageError(f"{args.image} is a disk image: --disk none would leave nothing to boot")
    if not is_program and args.args is not None:
        raise UsageError("--args is for a program; an image's command line is set by 'rumplab stage --args'")
    check_boots(args, found)
    return qemu.Spec(
        qemu=emulator,
        gdb_port=args.gdb_port or 0,
        accel=accelerator,
        memory=args.memory,
        image=None if is_program else found.path,
        image_format=found.format or "raw",
        program=found.path if is_program else None,
        arguments=args.args,
        disk=args.disk or "virtio",
        snapshot=args.snapshot,
        pci_bridge=not args.no_pci_bridge,
        wait=args.wait,
        exit_device=args.exit_device,
        extra=tuple(args.extra),
    )


def check_boots(args: argparse.Namespace, found: media.Media) -> None:
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


def symbols(args: argparse.Namespace, found: media.Media) -> tuple[str | None, str | None]:
    """The program that debug loads and the sha256 it had when it was staged, where known."""
    if args.symbols is None:
        return found.program, found.program_sha256
    chosen = media.inspect(args.symbols)
    if chosen.format is not None:
        raise UsageError(f"{args.symbols} is not an ELF file, so it has no symbols to load")
    return chosen.path, None


def wanted(args: argparse.Namespace, spec: qemu.Spec, found: media.Media) -> Machine:
    """The record of `spec` as far as the command line says it; Machines.claim does the rest."""
    program, digest = symbols(args, found)
    if ("tcp", spec.gdb_port) in {(forward.protocol, forward.host) for forward in args.forward}:
        raise UsageError(f"--gdb-port and --forward both ask for port {spec.gdb_port}; change one of them")
    return Machine(
        name=args.name or base_name(found.path),
        directory="",
        gdb_port=spec.gdb_port,
        image=str(Path(spec.image).resolve()) if spec.image else None,
        program=program,
        program_sha256=digest,
        snapshot=spec.snapshot,
        nics=spec.nics,
        accel=spec.accel,
    )


def command(spec: qemu.Spec, detach: bool) -> str:
    """The QEMU command as a line for a shell. It stands alone: no record, no control socket."""
    argv = qemu.machine_argv(spec)
    argv += (
        ["-serial", f"file:{Path(spec.image or spec.program or '').name}.serial.log", "-daemonize"]
        if detach
        else []
    )
    argv += [] if detach else qemu.terminal_argv()
    return shlex.join([*argv, *spec.extra])


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    cards = netoptions.cards(args, platform)
    qemu.check_extra(args.extra)
    lab = config.load()
    component = lab.component("qemu")
    emulator = component.path("qemu-system-x86_64")
    if args.name is not None:
        check_name(args.name)
    found = media.inspect(args.image)
    bridged = any(card.net == nics.BRIDGE for card in cards)
    way = attachment.find(lab, args.vmnet, platform) if bridged else None
    # Before the accelerators are tried, which may take seconds.
    if way and not args.dry_run:
        attachment.check(way, os.geteuid())
    machines = open_machines(lab)
    spec = replace(make_spec(args, found, emulator, args.accel), nics=cards, link=way.link if way else None)
    if spec.accel == "auto":
        spec = replace(spec, accel=accel.decide(emulator, component.version, machines.root).chosen)
    record = wanted(args, spec, found)
    seen = macs.learned(way.bridge) if way and way.bridge else frozenset()
    if args.dry_run:
        cards = addressed(cards, record.name, machines.all(), seen)
        spec = replace(spec, nics=cards, gdb_port=spec.gdb_port or ports.free(record.tcp_ports))
        script(command(spec, args.detach) + "\n")
        return 0
    machine = machines.claim(record, numbered=args.name is None, seen_macs=seen)
    spec = replace(spec, gdb_port=machine.gdb_port, nics=machine.nics)
    console = qemu.detached_argv if args.detach else qemu.foreground_argv
    argv = [
        *qemu.machine_argv(spec),
        *console(str(machine.serial_log)),
        *qemu.control_argv(str(machine.socket)),
    ]
    argv += spec.extra
    return start_detached(machines, machine, argv) if args.detach else start(machines, machine, argv, args)


def start_detached(machines: Machines, machine: Machine, argv: list[str]) -> int:
    running = launch.detached(machines, machine, argv)
    if running is None:
        print(f"{machine.name} has run and ended; read its console with: rumplab logs {machine.name}")
        return 0
    print(
        f"{running.name} runs (pid {running.pid}, {running.accel}, debug stub 127.0.0.1:{running.gdb_port});"
        f" stop it with: rumplab stop {running.name}"
    )
    return 0


def start(machines: Machines, machine: Machine, argv: list[str], args: argparse.Namespace) -> int:
    print(
        f"rumplab: {machine.name}: debug stub on 127.0.0.1:{machine.gdb_port};"
        f" attach with: rumplab debug {machine.name}",
        file=sys.stderr,
    )
    code = launch.foreground(machines, machine, argv)
    if code and not args.exit_device and code < 128:
        raise RumplabError(f"QEMU ended with status {code}; what it said stands above")
    return code
