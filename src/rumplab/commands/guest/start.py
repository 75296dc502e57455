"""``rumplab guest start``: from a definition to a machine that runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from rumplab.cli import network_options, panic_options
from rumplab.cli.arguments import port
from rumplab.errors import RumplabError, UsageError
from rumplab.guest import hardware, ipkdb, kernels
from rumplab.guest.definition import DIRECT, DISK, IPKDB, Guest, keeps_disk, open_guests, running
from rumplab.guest.starting import KGDB, RUN, Plan, make_plan, prepare, record, ssh_port, with_ssh
from rumplab.host.streams import script
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine import accel, launch, macs, nics, sandbox
from rumplab.machine.qemu_argv import Spec, check_extra
from rumplab.machine.registry import Machine, Machines, addressed, open_machines
from rumplab.network import attachment
from rumplab.postmortem import wishes as panic_wishes

EPILOG = """\
Its console is 'rumplab guest console NAME', its log 'rumplab logs NAME'. What it writes to its disk is thrown away
when it ends, unless --persist keeps it. QEMU's debug stub is there always, on a socket that only you can open.

examples:
  rumplab guest start nb --kgdb             the kernel waits in its debugger
  rumplab guest start nb8 --ipkdb           the same by Ethernet: its kernel has IPKDB, on a network card of its own
  rumplab guest start nb                    it boots; 'rumplab guest break nb' stops it in its debugger later
  rumplab guest start nb --persist          what it writes stays for the next time
  rumplab guest start nb --qemu-stub --wait for QEMU's stub, stopped before the first instruction
  rumplab guest start nb --kgdb --dry-run   print the commands instead
"""
TAKES_EXTRA = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab guest start NAME [OPTION…] [-- QEMU-ARGUMENT…]"
    parser.add_argument("name", metavar="NAME", help="the guest")
    parser.add_argument("--kgdb", action="store_true", help="the kernel waits in its debugger before it does much")
    parser.add_argument("--ipkdb", action="store_true", help="the same for IPKDB, over a network card of its own")
    parser.add_argument(
        "--ipkdb-net", choices=nics.NETWORKS, help="with --ipkdb: that card's network (default: bridge if another is)"
    )
    parser.add_argument(
        "--ipkdb-port",
        type=port,
        metavar="PORT",
        help="with --ipkdb: the UDP port of 127.0.0.1 that leads to it (default: a free one)",
    )
    parser.add_argument(
        "--qemu-stub", action="store_true", help="debug it by QEMU's stub, not by the kernel's own debugger"
    )
    parser.add_argument("--wait", action="store_true", help="with --qemu-stub: stop before the first instruction")
    parser.add_argument("--persist", action="store_true", help="keep what the guest writes to its disk")
    parser.add_argument("--accel", choices=accel.ACCELS, default="auto", help="auto, the default: the quickest here")
    panic_options.add_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")


def check_usage(args: argparse.Namespace) -> None:
    """UsageError for options that contradict one another."""
    ways = [option for option in ("kgdb", "ipkdb", "qemu_stub") if getattr(args, option)]
    if len(ways) > 1:
        names = " and ".join(f"--{option.replace('_', '-')}" for option in ways)
        raise UsageError(f"{names} are ways to debug it; choose one")
    if args.wait and not args.qemu_stub:
        raise UsageError("--wait goes with --qemu-stub; with --kgdb and --ipkdb the kernel itself waits")
    if (args.ipkdb_net or args.ipkdb_port) and not args.ipkdb:
        raise UsageError("--ipkdb-net and --ipkdb-port go with --ipkdb")


def make_spec(plan: Plan, args: argparse.Namespace, emulator: str, accelerator: str) -> Spec:
    """The machine, without ports and addresses yet."""
    direct = plan.kernel.boot == DIRECT
    return Spec(
        qemu=emulator,
        accel=accelerator,
        memory=plan.guest.memory,
        image=str(plan.boot_image) if plan.boot_image else None,
        program=plan.kernel.file if direct else None,
        arguments=hardware.command_line(plan.guest, plan.root, plan.waits) if direct else None,
        disk="ide",
        nics=plan.guest.nics,
        pci_bridge=plan.guest.pci_bridge,
        wait=args.wait,
        extra=tuple(args.extra),
    )


def print_commands(plan: Plan, spec: Spec, qemu_img: str) -> None:
    """What a start would run, as shell. It stands alone: no record, no control socket."""
    if plan.boot_image:
        from rumplab.guest import bootdisk
        from rumplab.image.recipe import shell

        recipe, _ = bootdisk.plan(Path(plan.kernel.file), plan.root, plan.waits)
        script(shell(recipe, plan.boot_image))
    if plan.kept and plan.kernel.disk is not None and not keeps_disk(plan.directory):
        from rumplab.guest import overlay

        target = str(plan.directory / DISK)
        step = overlay.create_step(qemu_img, plan.kernel.disk, plan.guest.disk_format, target)
        script(shlex.join(step.argv) + "\n")
    argv = hardware.machine_argv(spec, plan.guest, plan.kernel, plan.disk)
    script(shlex.join([*argv, *hardware.standalone_argv(plan.guest.name), *spec.extra]) + "\n")


def way_out(lab: Lab, guest: Guest, dry_run: bool, platform: str) -> attachment.Attachment | None:
    """The way onto the bridge, where a card of the guest is on it. RumplabError when it can't be used now."""
    if not any(card.net == nics.BRIDGE for card in guest.nics):
        return None
    way = attachment.find(lab, guest.vmnet, platform)
    if not dry_run:
        attachment.check(way, os.geteuid())
    return way


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    check_usage(args)
    check_extra(args.extra)
    lab = config.load()
    wishes = panic_options.wishes(args, lab, detached=True)
    guests, machines = open_guests(lab), open_machines(lab)
    guest = guests.find(args.name)
    component = lab.component("qemu")
    emulator, qemu_img = component.path("qemu-system-x86_64"), component.path("qemu-img")
    refuse_running(machines, guest)
    others = machines.all()
    if args.ipkdb:
        ipkdb.check(guest)
        busy = {forward.host for machine in others for forward in machine.forwards if forward.protocol == "udp"}
        guest = ipkdb.with_card(guest, args.ipkdb_net, args.ipkdb_port, busy)
    kernel = kernels.resolve(lab, guest)
    plan = make_plan(guest, kernel, guests.directory(guest.name), way_of(args), args.persist)
    way = way_out(lab, guest, args.dry_run, platform)
    chosen = args.accel
    if chosen == "auto":
        chosen = accel.decide(emulator, component.version, machines.root).chosen
    spec = replace(make_spec(plan, args, emulator, chosen), link=way.link if way else None)
    taken = {port for machine in others for port in machine.tcp_ports}
    # A printed command has QEMU run the helper itself.
    helped = args.dry_run and spec.link is not None and spec.link.spawns
    closed = sandbox.choose(emulator, component.version, machines.root, helped, spec.extra, platform)
    spec = replace(spec, nics=with_ssh(spec.nics, taken), sandbox=closed)
    network_options.warn(spec.nics)
    seen = macs.learned(way.bridge) if way and way.bridge else frozenset()
    if args.dry_run:
        cards = addressed(spec.nics, guest.name, others, seen)
        print_commands(plan, replace(spec, nics=cards, stub=f"{guest.name}.gdb.sock"), qemu_img)
        return 0
    machine = machines.claim(record(plan, spec), numbered=False, seen_macs=seen)
    try:
        # Under the claim, which nobody else has.
        prepare(plan, qemu_img, machines)
    except BaseException:
        machines.retire(machine)
        raise
    with contextlib.ExitStack() as stack:
        try:
            link = stack.enter_context(attachment.opened(way, machine.nics))
        except BaseException:
            machines.retire(machine)
            raise
        spec = replace(spec, stub=machine.stub, nics=machine.nics, link=link)
        if wishes is not None:
            panic_wishes.record(machine, wishes)
            # Who attends to it lets it go.
            spec = replace(spec, wait=True, extra=(*panic_wishes.argv(machine, wishes), *spec.extra))
        argv = [*hardware.machine_argv(spec, guest, kernel, plan.disk), *hardware.running_argv(machine), *spec.extra]
        running_machine = launch.detached(machines, machine, argv, link.taps if link else ())
    if running_machine is not None and wishes is not None:
        # Only here: few starts need it.
        from rumplab.postmortem import panic

        panic.in_background(running_machine, wishes)
    if running_machine is None:
        raise RumplabError(f"{guest.name} has ended already; read its console with: rumplab logs {guest.name}")
    print(report(guest, running_machine, args))
    return 0


def way_of(args: argparse.Namespace) -> str:
    return KGDB if args.kgdb else IPKDB if args.ipkdb else RUN


def refuse_running(machines: Machines, guest: Guest) -> None:
    machine = running(machines, guest.name)
    if machine is not None:
        raise RumplabError(
            f"{guest.name} is running already (pid {machine.pid}); stop it with: rumplab guest stop {guest.name}"
        )


def report(guest: Guest, machine: Machine, args: argparse.Namespace) -> str:
    """What a user wants to know of a guest that has just started."""
    port = ssh_port(machine)
    ssh = f", ssh on port {port} of 127.0.0.1" if port else ""
    ends = [item.host for card in machine.nics if card.slot for item in card.forwards]
    udp = f", IPKDB on UDP port {ends[0]}" if ends else ""
    option = " --qemu-stub" if args.qemu_stub else "" if args.kgdb or args.ipkdb else " --break"
    return (
        f"{guest.name} runs (pid {machine.pid}, {machine.accel}{ssh}{udp}); debug it with:"
        f" rumplab guest debug {guest.name}{option}"
    )
