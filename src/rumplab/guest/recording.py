"""Records a guest: what `rumplab guest start --record` does instead of a normal start."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection
from dataclasses import replace

from rumplab.errors import UsageError
from rumplab.guest import hardware, recorded_console
from rumplab.guest.definition import DISK
from rumplab.guest.lines import DEBUGGER
from rumplab.guest.starting import Plan, prepare, record
from rumplab.lab.config import Lab
from rumplab.machine import launch, qemu_argv
from rumplab.machine.qemu_argv import Spec
from rumplab.machine.registry import Machine, Machines
from rumplab.network import attachment
from rumplab.recording import devices, making, store
from rumplab.recording import record as recordings
from rumplab.recording.emulator import identify
from rumplab.recording.making import Wanted
from rumplab.recording.record import Recording


def whole(plan: Plan, spec: Spec) -> Spec:
    """The whole machine of `spec` for a recording. Prints which card is another one. UsageError if it can't be
    recorded."""
    if plan.kept:
        raise UsageError(
            f"--record copies each disk, and {plan.directory / DISK}, which --persist has kept, is only a part of one;"
            f" make a disk of it, and a guest with that --disk: qemu-img convert -O qcow2 {plan.directory / DISK} IMAGE"
        )
    cards = devices.replaced(spec.nics)
    changed = devices.explain_replaced(spec.nics, cards)
    if changed:
        print(f"rumplab: {plan.guest.name}: {changed}", file=sys.stderr)
    spec = hardware.recorded_spec(replace(spec, nics=cards), plan.guest, plan.kernel, plan.disk)
    # The boot disk is made later; it is complete.
    making.check(replace(spec, image=None))
    return spec


def shell(plan: Plan, spec: Spec, directory: str) -> str:
    """The commands that record the guest without rumplab, after its boot disk was made."""
    wanted = Wanted(spec, record(plan, spec), ports=hardware.PORTS)
    argv = [*making.argv(wanted, foreground=True), *qemu_argv.unused_port_argv(DEBUGGER)]
    return making.shell(directory or f"{plan.guest.name}.recording", wanted, argv)


def start(
    lab: Lab,
    machines: Machines,
    plan: Plan,
    spec: Spec,
    attached: attachment.Attachment | None,
    seen: Collection[str],
    text: str,
) -> tuple[Machine | None, Recording]:
    """Starts and records the guest, in the new directory `text` or, if that is empty, among the user's recordings.
    Returns the running machine, or None if the guest has already ended, and the recording."""
    with store.new(lab, text, plan.guest.name) as directory:
        emulator = identify(spec.qemu)
        made = replace(record(plan, spec), recording=str(directory))
        machine = machines.claim(made, numbered=False, seen_macs=seen)
        wanted = Wanted(replace(spec, stub=machine.stub, nics=machine.nics), machine, ports=hardware.PORTS)
        with contextlib.ExitStack() as stack:
            with machines.claimed(machine):
                # After the claim, no other command can prepare or start this guest.
                prepare(plan, lab.component("qemu").path("qemu-img"), machines)
                link = stack.enter_context(attachment.opened(attached, machine.nics))
                wanted = replace(wanted, spec=replace(wanted.spec, link=link))
                argv = [*qemu_argv.machine_argv(wanted.recorded), *hardware.running_argv(machine)]
                recorded_console.make(machine, making.make(directory, wanted, argv, emulator).console)
            running = launch.detached(machines, machine, argv, link.taps if link else (), str(directory))
        return running, recordings.read(directory)
