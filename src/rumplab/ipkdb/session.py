"""One session of ``rumplab ipkdb``: from the opening of the target to the parting from it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import holders, ports
from rumplab.host.files import work_directory
from rumplab.ipkdb import console_messages, gdb_connection
from rumplab.ipkdb.arch import Arch
from rumplab.ipkdb.faults import Silent
from rumplab.ipkdb.gdb_connection import Door, Streams
from rumplab.ipkdb.gdb_server import Stub
from rumplab.ipkdb.link import Hint, Link, Timing
from rumplab.ipkdb.pcap import Writer
from rumplab.ipkdb.target import Target
from rumplab.ipkdb.trace import Trace
from rumplab.ipkdb.udp import linked
from rumplab.machine.registry import Machine

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTE_SECONDS = 1.0
LOOK_SECONDS = 1.0
NAME_LIMIT = 64
SOCKET = "gdb.sock"
SILENCE = (
    "if its kernel waits for a debugger: the key may be the wrong one, to which it answers nothing; or DDB is in the"
    " kernel and has taken boot -d. See docs/commands/ipkdb.md"
)


@dataclass(frozen=True)
class Plan:
    """What the command line asks for. GDB comes by the TCP port `port`; with 0 by a socket that only this user can
    open, and without by standard input and output. `patience` is how many
    seconds the target may take to answer the opening; `machine` is the one that the target is, if it is known."""

    place: tuple[IPv4Address, int]
    key: bytes
    arch: Arch
    port: int | None
    patience: float
    machine: Machine | None = None
    pcap: Path | None = None
    trace: bool = False
    timing: Timing = field(default_factory=Timing)


def say(message: str) -> None:
    print(f"rumplab ipkdb: {message}", file=sys.stderr, flush=True)


def whoami() -> str:
    """What the target's console says about who debugs it."""
    return f"{getpass.getuser()}@{socket.gethostname()}"[:NAME_LIMIT]


async def run(plan: Plan) -> None:
    """The whole session. RumplabError when it ends otherwise than the user wanted."""
    refuse_second_debugger(plan.place)
    why = ports.refusal(plan.port) if plan.port else None
    if why:
        raise RumplabError(f"port {plan.port} on 127.0.0.1 {why}; use another --port, or leave it out")
    # What can go wrong here goes wrong before the kernel is bothered.
    streams = await gdb_connection.standard_streams() if plan.port is None else None
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(contextlib.closing(Writer(plan.pcap))) if plan.pcap else None
        trace = Trace(lambda line: print(line, file=sys.stderr)) if plan.trace else None
        stop = stop_event()
        wire_trace = trace.wire if trace else None
        async with linked(plan.place, plan.key, plan.timing, capture, wire_trace) as link:
            if not await opened(link, plan, stop):
                raise RumplabError("given up before the target answered")
            stub = Stub(Target(link, plan.arch), say)
            # Before GDB comes, so that a wrong --arch is told here.
            await stub.area()
            door = Door(stub, say, trace.gdb if trace else None)
            await attended(door, stub, plan, stop, streams)


def refuse_second_debugger(place: tuple[IPv4Address, int]) -> None:
    holder = holders.of_peer(str(place[0]), place[1])
    if holder:
        raise RumplabError(
            f"{place[0]}:{place[1]} is being debugged already ({holder}); a kernel has one debugger: end that one first"
        )


def stop_event() -> asyncio.Event:
    """Set when the user or the system wants the program to end."""
    stop = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def opened(link: Link, plan: Plan, stop: asyncio.Event) -> bool:
    """Opens the target; False when the user gave up first."""
    opening = asyncio.create_task(link.open(whoami(), plan.patience))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({opening, stopping}, timeout=NOTE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done() and not stopping.done():
            say(waiting(plan, link))
            await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            return False
        await opening
    except Silent as error:
        said = console_messages.meaning(plan.machine.serial_log) if plan.machine else ""
        raise Silent(f"{plan.place[0]}:{plan.place[1]}: {error}; {said or SILENCE}") from None
    finally:
        for task in (opening, stopping):
            task.cancel()
    return True


def waiting(plan: Plan, link: Link) -> str:
    """Why there is nothing to do yet."""
    where = f"{plan.place[0]}:{plan.place[1]}"
    if link.hints[Hint.REFUSED] and plan.place[0].is_loopback:
        return f"nobody has UDP port {plan.place[1]} of {plan.place[0]} yet; does the machine run, with its forward?"
    if link.hints[Hint.REFUSED]:
        return f"the kernel of {where} runs and isn't in IPKDB yet; waiting up to {plan.patience:.0f} s"
    return f"{where} doesn't answer yet; waiting up to {plan.patience:.0f} s"


async def attended(door: Door, stub: Stub, plan: Plan, stop: asyncio.Event, streams: Streams | None) -> None:
    """Serves GDB until the session is over, the machine has ended, or the user wants it to end."""
    async with served(door, plan, streams) as gdb:
        gone = asyncio.create_task(machine_gone(plan.machine))
        ends = {gdb, gone, asyncio.create_task(stop.wait()), asyncio.create_task(door.closed.wait())}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
        if door.failure is not None:
            raise door.failure
        if plan.machine is not None and gone.done():
            name = plan.machine.name
            raise RumplabError(f"machine '{name}' has ended; 'rumplab logs {name}' may say why")
        if not stub.over and gdb.done() and not stub.running:
            # GDB says so when it lets the kernel go: one that only hangs up, or was killed, leaves it where it is.
            say("GDB has hung up; the kernel stays where it is, and another session can go on from there")
            return
        if not stub.over:
            await parted(stub)
    say("detached: the kernel runs, and IPKDB can't stop it; to debug it again, start it again with -d")


@contextlib.asynccontextmanager
async def served(door: Door, plan: Plan, streams: Streams | None) -> AsyncIterator[asyncio.Task[None]]:
    """Lets GDB in; the task ends when no GDB can come any more. Without `streams`, by a socket or TCP."""
    if streams is not None:
        say(f"{plan.place[0]}:{plan.place[1]} is stopped, {plan.arch.name}")
        yield asyncio.create_task(door.enter(*streams))
        return
    where = f"{plan.place[0]}:{plan.place[1]}"
    # Nobody else can look into it, so that the socket is out of their reach from its first moment.
    with work_directory("ipkdb") as directory:
        remote = f"{ports.LOOPBACK}:{plan.port}" if plan.port else str(directory / SOCKET)
        server = await gdb_connection.listen(door, remote, plan.port or 0)
        if plan.port:
            say(f"every user of this host can attach by {remote}, and has the kernel then; without --port only you")
        older = "" if plan.port else f" (a GDB before 8.3: target remote | rumplab relay {remote})"
        print(f"{where} is stopped, {plan.arch.name}; in GDB: target remote {remote}{older}", flush=True)
        try:
            yield asyncio.create_task(server.serve_forever())
        finally:
            server.close()


async def machine_gone(machine: Machine | None) -> None:
    """Returns when the machine has ended; never without one."""
    while machine is None or machine.alive():
        await asyncio.sleep(LOOK_SECONDS)


async def parted(stub: Stub) -> None:
    """Detaches from a stopped target. RumplabError when it runs, for then it can't be asked to."""
    timing = stub.target.link.timing
    try:
        await asyncio.wait_for(stub.part(), timing.parting if stub.running else timing.parting + timing.patience)
    except asyncio.TimeoutError:
        left = ", ".join(f"{address:#x} (was {code.hex()})" for address, code in sorted(stub.breakpoints.code.items()))
        raise RumplabError(
            "the kernel runs, and IPKDB can't detach from a running one; it stays under the debugger and waits at its"
            f" next stop. Breakpoints that are still in it: {left or 'none'}"
        ) from None
