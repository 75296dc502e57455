"""``rumplab smoke``: the whole loop on the demo unikernel, to prove that the lab works."""

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
from rumplab.host import child_environment, files, process
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
# What --all adds, a controller.
DISK_SECONDS = 60
DONE = "pcihello: done"
ENDING_SECONDS = 10
# One line of our own, whatever the version of GDB prints around it.
REPORT = 'printf "rumplab-found %02x:%02x.%x %08x\\n", bus, device, function, id'
REPORTED = re.compile(r"^rumplab-found (\S+) (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """What the debugger is to find: PCI's first dword, and where, unless that is for the board to say."""

    label: str
    id: int
    place: str | None = None


E1000 = Target("e1000", qemu_argv.E1000_ID, "01:01.0")


@dataclass
class Loop:
    """One run: where it works, until when, what it looks for, and what it has found."""

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

    def left(self) -> float:
        """Seconds that remain. RumplabError when there are none."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise RumplabError("out of time; give it more with --timeout, or look into it with --keep")
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
    """The demo's path. NotProvisioned names every component that is missing."""
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
    """Runs ``rumplab ARGUMENTS`` as a user would and returns its output; RumplabError with it on failure."""
    left = loop.left()
    with subprocess.Popen(
        process.itself(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment.of(child_environment.ITSELF),
    ) as child:
        try:
            told, _ = child.communicate(timeout=left)
        except subprocess.TimeoutExpired as error:
            said = ended(child).decode(errors="replace")
            raise RumplabError(f"'rumplab {arguments[0]}' did not end in time; it said:\n{said}") from error
        except BaseException:
            ended(child)
            raise
    said = told.decode(errors="replace")
    if child.returncode:
        raise RumplabError(f"'rumplab {arguments[0]}' failed ({child.returncode}); it said:\n{said}")
    return said


def ended(child: subprocess.Popen[bytes]) -> bytes:
    """Ends a command of the tool so that it cleans up after itself; what it has said."""
    child.terminate()
    try:
        return child.communicate(timeout=ENDING_SECONDS)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[0]


def stage(loop: Loop) -> str:
    call(loop, "stage", loop.program, "-o", str(loop.image), "--args", "rumplab smoke")
    return f"{loop.image.name}, {loop.image.stat().st_size >> 20} MiB"


def boot(loop: Loop) -> str:
    disk = ["--disk", loop.disk] if loop.disk else []
    call(loop, "run", str(loop.image), "--wait", "--detach", "--name", loop.name, *disk)
    machine = loop.machines.find(loop.name)
    return f"{machine.accel}, stopped before its first instruction"


def attach(loop: Loop) -> str:
    """Breaks where the target is found, and has the debugger say which device that is."""
    label, number = loop.target.label, f"{loop.target.id:08x}"
    where = f"pci_device_found if id == 0x{number}"
    said = call(loop, "debug", loop.name, where, "--batch", "--ex", REPORT, "--ex", "delete", "--ex", "detach")
    found = REPORTED.search(said)
    if found is None:
        raise RumplabError(f"the debugger did not stop where the program finds the {label}; it said:\n{said}")
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
        raise RumplabError(f"{loop.name} has its console on the screen, or has ended; look into it with --keep")
    while DONE not in path.read_text(errors="replace"):
        loop.left()
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
    """All steps, one line each unless `quiet`."""
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
    """All steps from each disk controller, stopping where the program finds it; one row of a table each."""
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
    """Makes SIGTERM and SIGHUP unwind the stack, so that what was started is taken away."""

    def unwind(number: int, _frame: FrameType | None) -> NoReturn:
        # A second one must not cut the cleaning up short.
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def names(loop: Loop) -> list[str]:
    """What the loop's machine is called, and those that every_disk starts."""
    return [loop.name, *(f"{loop.name}-{disk}" for disk in disk_controllers.CONTROLLERS)]


def clean_up(loop: Loop, keep: bool) -> None:
    if keep:
        kept = ", ".join(one.name for one in loop.machines.all() if one.name in names(loop))
        print(f"rumplab smoke: kept {kept or 'no machine'} and {loop.directory}", file=sys.stderr)
        return
    end_machines(loop)


@contextlib.contextmanager
def workplace(keep: bool) -> Iterator[Path]:
    """The loop's directory, removed at the end, or else left for good."""
    if keep:
        yield Path(tempfile.mkdtemp(prefix="rumplab-kept-smoke-"))
        return
    with files.work_directory("smoke") as directory:
        # Below it, since who stages takes the lock of the directory that the image goes to.
        place = directory / "files"
        place.mkdir()
        yield place


def end_machines(loop: Loop) -> None:
    """Ends the loop's machine, and those that every_disk named after it, without leaving their logs."""
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
