"""``rumplab guest start``: starts a guest's machine from its definition."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from rumplab.cli import network_options, panic_options, record_options
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
from rumplab.postmortem import panic_policy
from rumplab.recording import devices

EPILOG = """\
'rumplab guest console NAME' connects to its console, 'rumplab logs NAME' prints what the console has shown. When the
guest ends, its writes to its disk are discarded, unless --persist keeps them. QEMU's debug stub is always available, on
a socket that only you can open.

examples:
  rumplab guest start nb --kgdb              the kernel waits in its debugger
  rumplab guest start nb8 --ipkdb            the same over Ethernet, for a kernel with IPKDB
  rumplab guest start nb                     it boots; 'rumplab guest break nb' stops it in its debugger later
  rumplab guest start nb --persist           keep what it writes for the next start
  rumplab guest start nb --qemu-stub --wait  for QEMU's stub, stopped before the first instruction
  rumplab guest start nb --record            see 'rumplab replay', 'rumplab recording' and 'debug --replay'
  rumplab guest start nb --kgdb --dry-run    print the commands instead
"""
TAKES_EXTRA = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab guest start NAME [OPTION…] [-- QEMU-ARGUMENT…]"
    parser.add_argument("name", metavar="NAME", help="the guest")
    parser.add_argument("--kgdb", action="store_true", help="the kernel waits for GDB early in its start")
    parser.add_argument(
        "--ipkdb",
        action="store_true",
        help="the same for a kernel with IPKDB, and add the network card that IPKDB uses",
    )
    parser.add_argument(
        "--ipkdb-net",
        choices=nics.NETWORKS,
        help="with --ipkdb: that card's network (default: bridge if another card is on it, else user)",
    )
    parser.add_argument(
        "--ipkdb-port",
        type=port,
        metavar="PORT",
        help="with --ipkdb on a user network: the UDP port of 127.0.0.1 that is forwarded to IPKDB (default: a free"
        " one)",
    )
    parser.add_argument("--qemu-stub", action="store_true", help="use QEMU's debug stub, not the kernel's own debugger")
    parser.add_argument("--wait", action="store_true", help="with --qemu-stub: stop before the first instruction")
    parser.add_argument(
        "--persist", action="store_true", help="keep what the guest writes to its disk, for later starts"
    )
    parser.add_argument(
        "--accel", choices=accel.ACCELS, default="auto", help="auto, the default: the fastest one that works here"
    )
    panic_options.add_arguments(parser)
    record_options.add_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")


def check_usage(args: argparse.Namespace) -> None:
    """Raises UsageError for options that contradict each other."""
    ways = [option for option in ("kgdb", "ipkdb", "qemu_stub") if getattr(args, option)]
    if len(ways) > 1:
        names = " and ".join(f"--{option.replace('_', '-')}" for option in ways)
        raise UsageError(f"{names} are ways to debug it; choose one")
    if args.wait and not args.qemu_stub:
        raise UsageError("--wait goes with --qemu-stub; with --kgdb and --ipkdb the kernel itself waits")
    if record_options.check(args):
        if args.kgdb:
            raise UsageError(
                "--kgdb and --record can't be used together: QEMU can't record a session on a serial line; leave out"
                " --kgdb, and debug the recording with: rumplab debug NAME --replay"
            )
        if args.persist:
            raise UsageError(
                "--record discards what the guest writes to its disk, so that the disk can be copied; leave"
                " out --persist"
            )
        devices.check_accel(args.accel)
        devices.check_extra(args.extra)
    if (args.ipkdb_net or args.ipkdb_port) and not args.ipkdb:
        raise UsageError("--ipkdb-net and --ipkdb-port go with --ipkdb; add that, or leave them out")


def make_spec(plan: Plan, args: argparse.Namespace, emulator: str, accelerator: str) -> Spec:
    """Returns the machine, without its ports and addresses."""
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
    """Prints the commands of a start as shell. They work without rumplab: there is no record and no control socket."""
    print_boot_disk(plan)
    if plan.kept and plan.kernel.disk is not None and not keeps_disk(plan.directory):
        from rumplab.guest import overlay

        target = str(plan.directory / DISK)
        step = overlay.create_step(qemu_img, plan.kernel.disk, plan.guest.disk_format, target)
        script(shlex.join(step.argv) + "\n")
    argv = hardware.machine_argv(spec, plan.guest, plan.kernel, plan.disk)
    script(shlex.join([*argv, *hardware.standalone_argv(plan.guest.name), *spec.extra]) + "\n")


def bridge_attachment(lab: Lab, guest: Guest, dry_run: bool, platform: str) -> attachment.Attachment | None:
    """Returns how QEMU attaches the guest's cards to the bridge; None if no card is on it. RumplabError if that can't
    work now; with `dry_run` it isn't checked."""
    if not any(card.net == nics.BRIDGE for card in guest.nics):
        return None
    attached = attachment.find(lab, guest.vmnet, platform)
    if not dry_run:
        attachment.check(attached, os.geteuid())
    return attached


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    check_usage(args)
    check_extra(args.extra)
    lab = config.load()
    policy = panic_options.policy(args, lab, detached=True)
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
    plan = make_plan(guest, kernel, guests.directory(guest.name), start_mode(args), args.persist)
    attached = bridge_attachment(lab, guest, args.dry_run, platform)
    recorded = args.record is not None
    chosen = devices.ACCEL if recorded else args.accel
    if chosen == "auto":
        chosen = accel.decide(emulator, component.version, machines.root).chosen
    spec = replace(make_spec(plan, args, emulator, chosen), link=attached.link if attached else None)
    taken = {port for machine in others for port in machine.tcp_ports}
    # In a printed command, QEMU itself runs the bridge helper.
    helped = args.dry_run and spec.link is not None and spec.link.spawns
    closed = sandbox.choose(emulator, component.version, machines.root, helped, spec.extra, platform)
    spec = replace(spec, nics=with_ssh(spec.nics, taken), sandbox=closed)
    if recorded:
        # Imported only here, since few guests are recorded.
        from rumplab.guest import recording

        spec = recording.whole(plan, spec)
    network_options.warn(spec.nics)
    seen = macs.learned(attached.bridge) if attached and attached.bridge else frozenset()
    if args.dry_run:
        cards = addressed(spec.nics, guest.name, others, seen)
        spec = replace(spec, nics=cards, stub=f"{guest.name}.gdb.sock")
        if recorded:
            print_boot_disk(plan)
            script(recording.shell(plan, spec, args.record) + "\n")
        else:
            print_commands(plan, spec, qemu_img)
        return 0
    if recorded:
        return start_recorded(lab, machines, plan, spec, attached, seen, args)
    machine = machines.claim(record(plan, spec), numbered=False, seen_macs=seen)
    try:
        # After the claim, no other command can prepare or start this guest.
        prepare(plan, qemu_img, machines)
    except BaseException:
        machines.retire(machine)
        raise
    with contextlib.ExitStack() as stack:
        try:
            link = stack.enter_context(attachment.opened(attached, machine.nics))
        except BaseException:
            machines.retire(machine)
            raise
        spec = replace(spec, stub=machine.stub, nics=machine.nics, link=link)
        if policy is not None:
            panic_policy.record(machine, policy)
            # The watcher continues the machine.
            spec = replace(spec, wait=True, extra=(*panic_policy.argv(machine, policy), *spec.extra))
        argv = [*hardware.machine_argv(spec, guest, kernel, plan.disk), *hardware.running_argv(machine), *spec.extra]
        running_machine = launch.detached(machines, machine, argv, link.taps if link else ())
    if running_machine is not None and policy is not None:
        # Imported only here, since most starts don't need it.
        from rumplab.postmortem import panic

        panic.watch_in_background(running_machine, policy)
    if running_machine is None:
        raise RumplabError(f"{guest.name} has ended already; read its console with: rumplab logs {guest.name}")
    print(report(guest, running_machine, args))
    return 0


def print_boot_disk(plan: Plan) -> None:
    """Prints the commands that make the boot disk, if the guest has one."""
    if plan.boot_image:
        from rumplab.guest import bootdisk
        from rumplab.image.recipe import shell

        recipe, _ = bootdisk.plan(Path(plan.kernel.file), plan.root, plan.waits)
        script(shell(recipe, plan.boot_image))


def start_recorded(
    lab: Lab,
    machines: Machines,
    plan: Plan,
    spec: Spec,
    attached: attachment.Attachment | None,
    seen: Collection[str],
    args: argparse.Namespace,
) -> int:
    """Starts and records the guest, and returns the exit status. RumplabError if it ends at once."""
    from rumplab.guest import recording

    machine, made = recording.start(lab, machines, plan, spec, attached, seen, args.record)
    if machine is not None:
        print(report(plan.guest, machine, args))
    record_options.print_state(made, machines, shlex.quote(args.record or made.name))
    if machine is None:
        raise RumplabError(
            f"{plan.guest.name} has ended already; read its console with: rumplab logs {plan.guest.name}"
        )
    return 0


def start_mode(args: argparse.Namespace) -> str:
    """Returns the value of Machine.guest for these options."""
    return KGDB if args.kgdb else IPKDB if args.ipkdb else RUN


def refuse_running(machines: Machines, guest: Guest) -> None:
    """Raises RumplabError if the guest runs."""
    machine = running(machines, guest.name)
    if machine is not None:
        raise RumplabError(
            f"{guest.name} is running already (pid {machine.pid}); stop it with: rumplab guest stop {guest.name}"
        )


def report(guest: Guest, machine: Machine, args: argparse.Namespace) -> str:
    """Returns the message about a guest that has just started: its ports, and how to debug it."""
    port = ssh_port(machine)
    ssh = f", ssh on port {port} of 127.0.0.1" if port else ""
    ends = [item.host for card in machine.nics if card.slot for item in card.forwards]
    udp = f", IPKDB on UDP port {ends[0]}" if ends else ""
    option = (
        " --qemu-stub"
        if args.qemu_stub or (machine.recording and not args.ipkdb)
        else ""
        if args.kgdb or args.ipkdb
        else " --break"
    )
    return (
        f"{guest.name} runs (pid {machine.pid}, {machine.accel}{ssh}{udp}); debug it with:"
        f" rumplab guest debug {guest.name}{option}"
    )
