"""``rumplab smoke``: proves that the lab works. It stages, boots and debugs the demo unikernel."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rumplab import output
from rumplab.cli.arguments import seconds
from rumplab.errors import NotProvisioned, RumplabError
from rumplab.host import child_environment, children, files, process
from rumplab.lab import config, verified
from rumplab.lab.config import Lab
from rumplab.machine import consoles, disk_controllers, qemu_argv, registry, shutdown
from rumplab.machine.registry import Machines, open_machines

EPILOG = """\
The command stages the demo unikernel, boots it with an e1000 behind a PCI bridge, attaches GDB, stops where the demo
finds the e1000, checks the PCI address that GDB reads there, and lets the demo run to its end. Then it removes the
machine and the image. With --all, it also boots the demo from each disk controller, and stops where the demo finds that
controller.

examples:
  rumplab smoke
  rumplab smoke --all
  rumplab smoke --record        record that the lab has passed: 'verified' in 'rumplab status'
  rumplab smoke --keep          keep the machine and the image
"""
COMPONENTS = ("qemu", "rump_stager", "gdb", "pcihello")
DEFAULT_SECONDS = 120
# The time that --all adds for each disk controller.
DISK_SECONDS = 60
DONE = "pcihello: done"
ENDING_SECONDS = 10
# A GDB command that prints one line in a fixed format: the rest of GDB's output differs between versions.
REPORT = 'printf "rumplab-found %02x:%02x.%x %08x\\n", bus, device, function, id'
REPORTED = re.compile(r"^rumplab-found (\S+) (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """The PCI device that the debugger must find. `id` is the first dword of its configuration space. `place` is its
    BUS:DEVICE.FUNCTION; with None, any place is right."""

    label: str
    id: int
    place: str | None = None


E1000 = Target("e1000", qemu_argv.E1000_ID, "01:01.0")


@dataclass
class Loop:
    """One run of the steps. `directory` is for its files, `deadline` a time of time.monotonic. The steps set `place`,
    `device` and `console` to what they find."""

    machines: Machines
    program: str
    directory: Path
    deadline: float
    name: str
    target: Target = E1000
    disk: str | None = None
    place: str = ""
    device: str = ""
    console: str = ""
    steps: list[dict[str, object]] = field(default_factory=list)

    @property
    def image(self) -> Path:
        return self.directory / (f"pcihello-{self.disk}.img" if self.disk else "pcihello.img")

    def remaining(self) -> float:
        """Returns the seconds until the deadline. RumplabError if it has passed."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise RumplabError("the time is over; give more with --timeout, or keep the machine with --keep")
        return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--all", action="store_true", help="then boot from each disk controller, too")
    parser.add_argument("--record", action="store_true", help="record in the prefix that the lab has passed")
    parser.add_argument("--keep", action="store_true", help="keep the machine and the image, and print where they are")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help=f"time limit for everything (default: {DEFAULT_SECONDS}, with --all {DISK_SECONDS} more a controller)",
    )


def require(lab: Lab) -> str:
    """Returns the demo's path. NotProvisioned, with the name of each missing component, if one is missing."""
    missing = []
    for name in COMPONENTS:
        try:
            lab.component(name)
        except NotProvisioned as error:
            missing.append(str(error))
    if missing:
        raise NotProvisioned("; ".join(missing))
    return lab.component("pcihello").path("program")


def call(loop: Loop, *arguments: str) -> str:
    """Runs ``rumplab ARGUMENTS`` as a child process and returns its output. RumplabError, with the output, if it fails
    or does not end in time."""
    seconds = loop.remaining()
    with children.running(
        process.own_command(*arguments),
        terminate,
        child_environment.of(child_environment.ITSELF),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as child:
        try:
            output, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            printed = terminate(child).decode(errors="replace")
            raise RumplabError(f"'rumplab {arguments[0]}' did not end in time; it printed:\n{printed}") from error
    printed = output.decode(errors="replace")
    if child.returncode:
        raise RumplabError(f"'rumplab {arguments[0]}' failed ({child.returncode}); it printed:\n{printed}")
    return printed


def terminate(child: subprocess.Popen[bytes]) -> bytes:
    """Ends a command of this tool if it still runs, and returns the rest of its output. SIGTERM lets it clean up;
    SIGKILL follows after ENDING_SECONDS."""
    if child.poll() is not None and (child.stdout is None or child.stdout.closed):
        return b""
    child.terminate()
    try:
        return child.communicate(timeout=ENDING_SECONDS)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[0]


def stage(loop: Loop) -> str:
    """Makes the image; returns what to print about it."""
    call(loop, "stage", loop.program, "-o", str(loop.image), "--args", "rumplab smoke")
    return f"{loop.image.name}, {loop.image.stat().st_size >> 20} MiB"


def boot(loop: Loop) -> str:
    """Starts the machine, stopped; returns what to print about it."""
    disk = ["--disk", loop.disk] if loop.disk else []
    call(loop, "run", str(loop.image), "--wait", "--detach", "--name", loop.name, *disk)
    machine = loop.machines.find(loop.name)
    return f"{machine.accel}, stopped before its first instruction"


def attach(loop: Loop) -> str:
    """Sets a breakpoint where the program finds the target, and compares the device that the debugger reports."""
    label, number = loop.target.label, f"{loop.target.id:08x}"
    where = f"pci_device_found if id == 0x{number}"
    printed = call(loop, "debug", loop.name, where, "--batch", "--ex", REPORT, "--ex", "delete", "--ex", "detach")
    found = REPORTED.search(printed)
    if found is None:
        raise RumplabError(f"the debugger did not stop where the program finds the {label}; it printed:\n{printed}")
    expected = (loop.target.place or found[1], number)
    if found.groups() != expected:
        raise RumplabError(f"the debugger reports {found[1]} {found[2]}, expected {' '.join(expected)}")
    loop.place, loop.device = found[1], f"{number[4:]}:{number[:4]}"
    behind = ", behind the bridge" if loop.target.place else ""
    return f"stopped in pci_device_found: {label} {loop.place} {loop.device}{behind}"


def finish(loop: Loop) -> str:
    """Waits for the program's last line on the machine's console."""
    path, machine = registry.locate(loop.machines, loop.name)
    if machine is None or machine.console != consoles.SERIAL:
        raise RumplabError(f"{loop.name} has ended, or its console is the screen; keep the machine with --keep")
    while DONE not in path.read_text(errors="replace"):
        loop.remaining()
        time.sleep(0.05)
    loop.console = machine.console
    return f"'{DONE}' on the {machine.console} console (the machine has no VGA card)"


ROW = "{:12} {:11} {:8} {}"
STEPS: tuple[tuple[str, Callable[[Loop], str]], ...] = (
    ("stage", stage),
    ("run", boot),
    ("debug", attach),
    ("done", finish),
)


def perform(loop: Loop, quiet: bool) -> None:
    """Runs all steps, and prints one line for each unless `quiet`. RumplabError names the step that fails."""
    for name, step in STEPS:
        began = time.monotonic()
        try:
            detail = step(loop)
        except RumplabError as error:
            raise RumplabError(f"{name}: {error}") from error
        seconds = time.monotonic() - began
        loop.steps.append({"step": name, "seconds": round(seconds, 3), "detail": detail})
        if not quiet:
            print(f"ok  {name:5}  {seconds:5.1f} s  {detail}", flush=True)


def every_disk(loop: Loop, quiet: bool, keep: bool) -> list[dict[str, object]]:
    """Runs all steps with each disk controller, with a breakpoint where the program finds that controller. Prints one
    row of a table for each unless `quiet`, and returns them as objects for JSON."""
    rows: list[dict[str, object]] = []
    if not quiet:
        print(ROW.format("disk", "controller", "at", "time").rstrip())
    for disk, controller in disk_controllers.CONTROLLERS.items():
        began = time.monotonic()
        target = Target(f"{disk} controller", controller.id)
        one = replace(loop, name=f"{loop.name}-{disk}", disk=disk, target=target, steps=[])
        try:
            perform(one, quiet=True)
        except RumplabError as error:
            raise RumplabError(f"--disk {disk}: {error}") from error
        if not keep:
            end_machines(one)
        seconds = time.monotonic() - began
        rows.append({"disk": disk, "controller": one.device, "place": one.place, "seconds": round(seconds, 3)})
        if not quiet:
            print(ROW.format(disk, one.device, one.place, f"{seconds:5.1f} s"), flush=True)
    return rows


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise SystemExit during the block, so that the clean-up code ends the machines."""

    def unwind(number: int, _frame: FrameType | None) -> NoReturn:
        # A second signal must not interrupt the clean-up.
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def names(loop: Loop) -> list[str]:
    """Returns the names of the loop's machine and of those that every_disk starts."""
    return [loop.name, *(f"{loop.name}-{disk}" for disk in disk_controllers.CONTROLLERS)]


def clean_up(loop: Loop, keep: bool) -> None:
    """Ends the loop's machines; with `keep`, prints what it leaves instead."""
    if keep:
        kept = ", ".join(one.name for one in loop.machines.all() if one.name in names(loop))
        print(f"rumplab smoke: kept {kept or 'no machine'} and {loop.directory}", file=sys.stderr)
        return
    end_machines(loop)


@contextlib.contextmanager
def workplace(keep: bool) -> Iterator[Path]:
    """Yields the loop's directory, and removes it at the end unless `keep`."""
    if keep:
        yield Path(tempfile.mkdtemp(prefix="rumplab-kept-smoke-"))
        return
    with files.work_directory("smoke") as directory:
        # A subdirectory, since `rumplab stage` locks the directory of its output, and work_directory holds that lock.
        place = directory / "files"
        place.mkdir()
        yield place


def end_machines(loop: Loop) -> None:
    """Ends the loop's machine and those that every_disk started, and removes their logs."""
    for machine in loop.machines.all():
        if machine.name in names(loop) and not shutdown.end(loop.machines, machine):
            print(f"rumplab smoke: {machine.name} (pid {machine.pid}) does not end", file=sys.stderr)
    for name in names(loop):
        loop.machines.forget(name)


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    program = require(lab)
    began = time.monotonic()
    bound = DEFAULT_SECONDS + (DISK_SECONDS * len(disk_controllers.CONTROLLERS) if args.all else 0)
    with terminable(), workplace(args.keep) as directory:
        loop = Loop(
            machines=open_machines(lab),
            program=program,
            directory=directory,
            deadline=began + (bound if args.timeout is None else args.timeout),
            name=f"smoke-{os.getpid()}",
        )
        try:
            perform(loop, quiet=args.json)
            rows = every_disk(loop, args.json, args.keep) if args.all else []
            if args.record:
                verified.record(lab)
        finally:
            clean_up(loop, args.keep)
    seconds = time.monotonic() - began
    if args.json:
        data = {"device": f"{loop.place} {loop.device}", "console": loop.console, "seconds": round(seconds, 3)}
        data["steps"] = loop.steps
        print(output.as_json({**data, "disks": rows} if args.all else data))
    else:
        also = f" and {len(rows)} disk controllers," if rows else ","
        print(
            f"the lab works: e1000 {loop.place} {loop.device} behind the bridge{also}"
            f" seen by the debugger ({seconds:.1f} s)"
        )
    return 0
