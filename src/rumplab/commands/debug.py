"""``rumplab debug``: the lab's GDB on a running machine, with the right symbols."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from rumplab.container import builder_images, mounts, runner
from rumplab.container.docker import Image
from rumplab.container.runner import Container
from rumplab.errors import RumplabError, UsageError
from rumplab.gdb import command_line, kgdb_commands
from rumplab.gdb.command_line import COMPONENT, Session
from rumplab.guest import lines
from rumplab.host import ports
from rumplab.host.streams import script
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine.registry import Machine, Machines, open_machines
from rumplab.recording import opening
from rumplab.replay import relay
from rumplab.vmware.directory import open_export

EPILOG = """\
Without NAME: the only machine there is. With SYMBOL: a hardware breakpoint there, and on to it. Commands
given by --ex and --script run after that. What follows '--' goes to GDB as it is.

examples:
  rumplab debug                                       the only machine
  rumplab debug hello main                            run to main
  rumplab debug hello 'found if bus == 1'             run to a breakpoint with a condition
  rumplab debug hello main --batch --ex bt --ex 'info registers rip'
  rumplab debug hello --dry-run                       print the GDB command instead
  rumplab debug --vmware hello.vmwarevm main          an export's machine, which VMware runs on this host
  rumplab debug hello main --container                the debugger of the lab's image
  rumplab debug hello main --replay                   a recorded run, which goes backwards too: reverse-continue
"""
TAKES_EXTRA = True
# Docker Desktop's name for the machine that it runs on, whose own loopback interface it reaches.
DESKTOP = "host.docker.internal"
REMOTE_SECONDS = 10
REPLAY_COMMANDS = kgdb_commands.DATA / "replay.gdb"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab debug [NAME] [SYMBOL] [OPTION…] [-- GDB-ARGUMENT…]"
    parser.add_argument("name", metavar="NAME", nargs="?", help="the machine (default: the only one)")
    parser.add_argument("location", metavar="SYMBOL", nargs="?", help="where to break and run to")
    command_line.add_command_arguments(parser)
    parser.add_argument(
        "--vmware", metavar="DIR", type=Path, help="attach to the machine of an export instead; see 'export'"
    )
    parser.add_argument(
        "--replay",
        action="store_true",
        help="NAME is a recording: repeat it, forwards and backwards; see 'run --record'",
    )
    runner.add_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the GDB command and do nothing")


def gdb_argv(session: Session) -> list[str]:
    """GDB's command line for a machine's debug stub."""
    return command_line.command_line(session, attach_commands(session))


def attach_commands(session: Session) -> list[str]:
    """What attaches: first everything that GDB must know before the stub's first reply.

    The stub of qemu-system-x86_64 sends registers in the layout of x86-64 whatever the processor's mode, so
    that is the architecture, also of a program for i386.
    """
    commands = ["set architecture i386:x86-64", f"set remotetimeout {REMOTE_SECONDS}"]
    if session.program is not None:
        # GDB splits the argument of 'file' as a shell would.
        commands.append(f"file {command_line.gdb_quote(session.program)}")
    if session.sources is not None:
        commands.append(f"directory {command_line.gdb_quote(session.sources)}")
    commands += command_line.attached(f"target remote {session.remote}")
    if session.location is not None:
        # A software breakpoint set before the loader has run would be overwritten by the program itself.
        commands += command_line.run_to(session.location, "hbreak")
    return commands


def choose(machines: Machines, name: str | None) -> Machine:
    """The machine `name`, or the only one. RumplabError lists them when that's not clear."""
    if name is not None:
        return machines.find(name)
    running = machines.all()
    if len(running) == 1:
        return running[0]
    if not running:
        raise RumplabError("no machine is running; start one with: rumplab run IMAGE --wait --detach")
    names = ", ".join(machine.name for machine in running)
    raise RumplabError(f"{len(running)} machines are running, so name one: {names}")


def sources_of(lab: Lab, program: str | None) -> str | None:
    """The source directory of the component that `program` belongs to, where it has one."""
    if program is None:
        return None
    for component in lab.components():
        source, built = component.paths.get("source"), component.paths.get("program")
        if source and built and os.path.realpath(built) == os.path.realpath(program):
            return source
    return None


def target_of(args: argparse.Namespace, lab: Lab) -> tuple[Machine, str | None]:
    """The machine to attach to, and the place to run to. UsageError for a NAME beside `--vmware`."""
    if args.vmware is None:
        return choose(open_machines(lab), args.name), args.location
    if args.location is not None:
        raise UsageError(f"with --vmware there is no NAME; leave out '{args.name}'")
    directory = Path(os.path.abspath(args.vmware))
    found = open_export(directory)
    machine = Machine(
        name=directory.name,
        directory=str(directory),
        gdb_port=found.port,
        program=found.program,
        program_sha256=found.program_sha256,
    )
    return machine, args.name


def run_replay(args: argparse.Namespace, lab: Lab) -> int:
    """GDB on a recording: see rumplab.replay."""
    if args.vmware is not None or args.container:
        raise UsageError("--replay is for a recording of this host's, and doesn't go with --vmware or --container")
    if args.name is None:
        raise UsageError("--replay needs the NAME of a recording; 'rumplab recording ls' lists them")
    gdb, gdbinit = command_line.debugger(lab)
    command_line.check_files(args.symbols, *args.script)
    with opening.opened(lab, open_machines(lab), args.name) as recording:
        program = os.path.abspath(args.symbols) if args.symbols else recording.symbols_file
        if args.location is not None and program is None and not args.location.startswith("*"):
            raise RumplabError(f"'{args.location}' needs symbols, and there are none; give them with --symbols FILE")
        session = Session(
            gdb=gdb,
            gdbinit=gdbinit,
            remote=f"| {shlex.join(relay.argv(recording.directory, recording.emulator))}",
            program=program,
            sources=sources_of(lab, recording.origin),
            location=args.location,
            commands=tuple(args.ex),
            scripts=tuple(args.script),
            batch=args.batch,
            extra=tuple(args.extra),
        )
        argv = command_line.command_line(session, [f"source {REPLAY_COMMANDS}", *attach_commands(session)])
    if args.dry_run:
        script(shlex.join(argv) + "\n")
    else:
        command_line.replace_process(argv, args.batch, None)
    return 0


def run(args: argparse.Namespace) -> int:
    command_line.checked_location(args.location)
    lab = config.load()
    if args.replay:
        return run_replay(args, lab)
    image = builder_images.find(lab, COMPONENT) if runner.wanted(args.container, lab, sys.platform, COMPONENT) else None
    gdb, gdbinit = command_line.debugger(lab) if image is None else debugger_inside(image)
    version = lab.component(COMPONENT).version if image is None else image.version(COMPONENT)
    machine, wanted = target_of(args, lab)
    location = command_line.checked_location(wanted)
    command_line.check_files(args.symbols, *args.script)
    program = os.path.abspath(args.symbols) if args.symbols else command_line.symbols_of(machine)
    if location is not None and program is None and not location.startswith("*"):
        raise RumplabError(f"'{location}' needs symbols, and there are none; give them with --symbols FILE")
    session = Session(
        gdb=gdb,
        gdbinit=gdbinit,
        remote=remote_inside(machine, version, sys.platform) if image else command_line.remote(machine.stub, version),
        program=program,
        sources=sources_of(lab, program),
        location=location,
        commands=tuple(args.ex),
        scripts=tuple(args.script),
        batch=args.batch,
        extra=tuple(args.extra),
    )
    with the_stub(machine, args) as handle:
        if image is not None:
            return run_inside(image, session, machine, args.dry_run)
        argv = gdb_argv(session)
        if args.dry_run:
            script(shlex.join(argv) + "\n")
        else:
            command_line.replace_process(argv, args.batch, handle)
    return 0


@contextlib.contextmanager
def the_stub(machine: Machine, args: argparse.Namespace) -> Iterator[int | None]:
    """Holds the machine's debug stub, which is kept by the open file that it yields. RumplabError names whoever has it:
    QEMU would let a second debugger wait, for ever and without a word. VMware's stub can't be asked."""
    if args.vmware is not None and not args.dry_run and ports.refusal(machine.gdb_port) is None:
        raise RumplabError(
            f"nothing listens on 127.0.0.1:{machine.gdb_port}, where VMware has the debug stub of {machine.name}:"
            f" start {machine.directory}/machine.vmx in VMware first"
        )
    if args.vmware is not None or args.dry_run:
        yield None
        return
    with lines.held(machine, lines.STUB, *lines.second_debugger(machine)) as handle:
        yield handle


def debugger_inside(image: Image) -> tuple[str, str]:
    """The same of an image, by the paths that they have in it."""
    return image.path(COMPONENT, "gdb"), image.path(COMPONENT, "gdbinit")


def remote_inside(machine: Machine, version: str | None, platform: str) -> str:
    """What 'target remote' takes in a container, on `platform` (sys.platform's names). RumplabError for a socket where
    a container can't have it."""
    if platform != "darwin":
        return command_line.remote(machine.stub, version, ("rumplab", "relay", machine.stub))
    if not machine.gdb_port:
        raise RumplabError(
            f"Docker Desktop gives a container no socket of this host, and the debug stub of {machine.name} is on one;"
            " run the machine with --gdb-port PORT, or debug it without --container"
        )
    return f"{DESKTOP}:{machine.gdb_port}"


def network_inside(machine: Machine, platform: str) -> str | None:
    """The container's network: on Linux one of the host's has its loopback interface; a socket needs none."""
    if not machine.gdb_port:
        return "none"
    return None if platform == "darwin" else "host"


def run_inside(image: Image, session: Session, machine: Machine, dry_run: bool) -> int:
    """GDB in a container that sees the program, its sources, the scripts, the stub and the working directory."""
    directory = os.getcwd()
    own = [directory] if mounts.possible(directory, image.prefix) else []
    stub = None if machine.gdb_port else machine.stub
    read = [path for path in (session.program, session.sources, *session.scripts, stub) if path is not None]
    terminal = not session.batch and sys.stdin.isatty() and sys.stdout.isatty()
    box = Container(
        image=image.name,
        name=runner.new_name("debug"),
        command=tuple(gdb_argv(session)),
        mounts=tuple(mounts.collect(read, own, image.prefix)),
        caller=runner.caller(),
        network=network_inside(machine, sys.platform),
        stdin=not session.batch,
        terminal=terminal,
    )
    argv = runner.run_argv(box)
    if dry_run:
        script(shlex.join(argv) + "\n")
        return 0
    return runner.attend(argv, box.name, box.stdin)
