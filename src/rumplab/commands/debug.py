"""``rumplab debug``: attaches the lab's GDB to a running machine and loads its symbols."""

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
With SYMBOL, GDB sets a hardware breakpoint there and runs the machine to it. Then it executes the commands of --ex, and
those of --script. What follows '--' goes to GDB unchanged. When GDB ends, the machine runs on; 'rumplab stop' ends it.
If there is no such SYMBOL, GDB ends with status 1, and the machine stays stopped.

Sources: GDB looks where the symbols say, and in the current directory. If yours have moved, put 'set substitute-path
/OLD /NEW' into a file and add: -- -ix FILE

examples:
  rumplab debug                                       the only machine that runs
  rumplab debug hello main                            run to main
  rumplab debug hello 'found if bus == 1'             run to a breakpoint with a condition
  rumplab debug hello main --batch --ex bt --ex 'info registers rip'
  rumplab debug hello --dry-run                       print the GDB command instead
  rumplab debug --vmware hello.vmwarevm main          an export; first start its machine.vmx in VMware on this host
  rumplab debug hello main --container                with the GDB of the lab's builder image
  rumplab debug --core hello.core --batch --ex bt     a file that 'rumplab dump' or --on-panic wrote
  rumplab debug hello main --replay                   a recorded run, also backwards: reverse-continue
"""
TAKES_EXTRA = True
# Docker Desktop's name for its host. A container that connects to it reaches the host's loopback interface.
DESKTOP = "host.docker.internal"
REMOTE_SECONDS = 10
REPLAY_COMMANDS = kgdb_commands.DATA / "replay.gdb"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab debug [NAME] [SYMBOL] [OPTION…] [-- GDB-ARGUMENT…]"
    parser.add_argument("name", metavar="NAME", nargs="?", help="the machine (default: the only one that runs)")
    parser.add_argument(
        "location",
        metavar="SYMBOL",
        nargs="?",
        help="a function, FILE:LINE or *ADDRESS to run to; 'if CONDITION' may follow",
    )
    command_line.add_command_arguments(parser)
    parser.add_argument(
        "--vmware",
        metavar="DIR",
        type=Path,
        help="attach to the machine of this export (see 'export'), which VMware runs",
    )
    parser.add_argument("--core", metavar="FILE", type=Path, help="open this dump (see 'dump') instead of a machine")
    parser.add_argument(
        "--replay",
        action="store_true",
        help="NAME is a recording: execute it, forwards and backwards; see 'run --record'",
    )
    runner.add_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the GDB command and do nothing")


def gdb_argv(session: Session) -> list[str]:
    """Returns GDB's command line for a machine's debug stub."""
    return command_line.command_line(session, attach_commands(session))


def attach_commands(session: Session) -> list[str]:
    """Returns the GDB commands that attach and run to the location. The first ones set what GDB must know before the
    stub's first reply.

    The architecture is x86-64 even for an i386 program: the stub of qemu-system-x86_64 sends the registers in the
    layout of x86-64 in all modes of the processor.
    """
    commands = ["set architecture i386:x86-64", f"set remotetimeout {REMOTE_SECONDS}"]
    if session.program is not None:
        # GDB splits the argument of 'file' into words, as a shell does.
        commands.append(f"file {command_line.gdb_quote(session.program)}")
    if session.sources is not None:
        commands.append(f"directory {command_line.gdb_quote(session.sources)}")
    commands += command_line.attached(f"target remote {session.remote}")
    if session.location is not None:
        # The loader would overwrite a software breakpoint, if the program isn't loaded yet.
        commands += command_line.run_to(session.location, "hbreak")
    return commands


def choose(machines: Machines, name: str | None) -> Machine:
    """Returns the machine `name`; without a name, the only running machine. RumplabError if there is none, or if there
    are several and no name."""
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
    """Returns the source directory of the component that contains `program`; None if there is none."""
    if program is None:
        return None
    for component in lab.components():
        source, built = component.paths.get("source"), component.paths.get("program")
        if source and built and os.path.realpath(built) == os.path.realpath(program):
            return source
    return None


def target_of(args: argparse.Namespace, lab: Lab) -> tuple[Machine, str | None]:
    """Returns the machine to attach to and the location to run to. UsageError for a NAME together with `--vmware`."""
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
    """Runs GDB on a recording (see rumplab.replay), and returns the exit code, if this process goes on."""
    if args.vmware is not None or args.core is not None or args.container:
        raise UsageError("--replay can't be used with --vmware, --core or --container; leave them out")
    if args.name is None:
        raise UsageError("--replay needs the NAME of a recording; 'rumplab recording ls' lists them")
    gdb, gdbinit = command_line.debugger(lab)
    command_line.check_files(args.symbols, *args.script)
    with opening.opened(lab, open_machines(lab), args.name) as recording:
        program = os.path.abspath(args.symbols) if args.symbols else recording.symbols_file
        qemu_img = lab.component("qemu").paths.get("qemu-img", "")
        if args.location is not None and program is None and not args.location.startswith("*"):
            raise RumplabError(f"'{args.location}' needs symbols, and there are none; give them with --symbols FILE")
        session = Session(
            gdb=gdb,
            gdbinit=gdbinit,
            remote=f"| {shlex.join(relay.argv(recording, qemu_img))}",
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
    if args.core is not None:
        return open_core(args, lab, image)
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
    with held_stub(machine, args) as handle:
        if image is not None:
            return run_inside(image, session, machine, args.dry_run)
        argv = gdb_argv(session)
        if args.dry_run:
            script(shlex.join(argv) + "\n")
        else:
            command_line.replace_process(argv, args.batch, handle)
    return 0


def open_core(args: argparse.Namespace, lab: Lab, image: Image | None) -> int:
    """Runs GDB on a dump, in a container of `image` if it isn't None. Returns the exit code, if this process goes
    on."""
    if args.name is not None or args.vmware is not None:
        raise UsageError("--core opens a file, in which nothing runs; leave out NAME, SYMBOL and --vmware")
    command_line.check_files(args.symbols, *args.script)
    # Imported only here, since attaching to a machine doesn't need it.
    from rumplab.postmortem import core, debugger

    gdb, gdbinit = command_line.debugger(lab) if image is None else debugger_inside(image)
    with core.opened(args.core) as dump:
        program = core.symbols(dump, lab, args.core, args.symbols)
        session = Session(
            gdb=gdb,
            gdbinit=gdbinit,
            remote="",
            program=program,
            commands=tuple(args.ex),
            scripts=tuple(args.script),
            batch=args.batch,
            extra=tuple(args.extra),
        )
        argv = command_line.command_line(session, debugger.commands(dump, program, sources_of(lab, program)))
        if image is None and not args.dry_run:
            command_line.replace_process(argv, args.batch, dump.handle)
        if dump.handle is not None:
            raise UsageError(
                f"GDB can't open {args.core} by its name; unpack it with gunzip if it is compressed, else rename it"
            )
        if image is not None:
            return in_container(image, argv, session, [dump.path, *debugger.files(dump, program)], "none", args.dry_run)
        script(shlex.join(argv) + "\n")
    return 0


@contextlib.contextmanager
def held_stub(machine: Machine, args: argparse.Namespace) -> Iterator[int | None]:
    """Locks the machine's debug stub for this debugger, and yields the descriptor that holds the lock.

    RumplabError, with the process's name, if another debugger is attached: QEMU would let a second one wait forever
    without a message. With --vmware or --dry-run it locks nothing and yields None; VMware's stub has no lock.
    """
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
    """Returns the paths of GDB and its gdbinit inside `image`."""
    return image.path(COMPONENT, "gdb"), image.path(COMPONENT, "gdbinit")


def remote_inside(machine: Machine, version: str | None, platform: str) -> str:
    """Returns the argument of 'target remote' for a GDB in a container. `platform` is a value of sys.platform.
    RumplabError on macOS for a stub on a socket, since Docker Desktop gives a container no socket of the host."""
    if platform != "darwin":
        return command_line.remote(machine.stub, version, ("rumplab", "relay", machine.stub))
    if not machine.gdb_port:
        raise RumplabError(
            f"Docker Desktop gives a container no socket of this host, and the debug stub of {machine.name} is on one;"
            " run the machine with --gdb-port PORT, or debug it without --container"
        )
    return f"{DESKTOP}:{machine.gdb_port}"


def network_inside(machine: Machine, platform: str) -> str | None:
    """Returns the value of the container's --network, or None for Docker's default. A stub on a socket needs no
    network; for a TCP port on Linux, the container needs the host's loopback interface."""
    if not machine.gdb_port:
        return "none"
    return None if platform == "darwin" else "host"


def run_inside(image: Image, session: Session, machine: Machine, dry_run: bool) -> int:
    """Runs GDB in a container and returns its exit code. The container has the program, its sources, the scripts, the
    stub and the working directory. With `dry_run`, prints the command instead."""
    files = [] if machine.gdb_port else [machine.stub]
    return in_container(image, gdb_argv(session), session, files, network_inside(machine, sys.platform), dry_run)


def in_container(
    image: Image, argv: list[str], session: Session, files: list[str], network: str | None, dry_run: bool
) -> int:
    """Runs the GDB command `argv` of `session` in a container and returns its exit code. The container has the files of
    `session`, the `files` and the working directory. With `dry_run`, prints the command instead."""
    directory = os.getcwd()
    own = [directory] if mounts.possible(directory, image.prefix) else []
    read = [path for path in (session.program, session.sources, *session.scripts, *files) if path is not None]
    terminal = not session.batch and sys.stdin.isatty() and sys.stdout.isatty()
    box = Container(
        image=image.name,
        name=runner.new_name("debug"),
        command=tuple(argv),
        mounts=tuple(mounts.collect(read, own, image.prefix)),
        caller=runner.caller(),
        network=network,
        stdin=not session.batch,
        terminal=terminal,
    )
    command = runner.run_argv(box)
    if dry_run:
        script(shlex.join(command) + "\n")
        return 0
    return runner.attend(command, box.name, box.stdin)
