"""One session of ``rumplab ipkdb``: opens the target, serves GDB, and detaches from the target."""

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
from rumplab.ipkdb.gdb_connection import Acceptor, Streams
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
    "if its kernel waits for a debugger, the key may be wrong: the kernel doesn't answer a wrong key; or the kernel"
    " contains DDB, which handles boot -d. See docs/commands/ipkdb.md"
)


@dataclass(frozen=True)
class Plan:
    """The request of the command line. GDB connects to the TCP port `port`; with 0, to a socket that only this user can
    open; with None, by standard input and output. `patience` is the time limit for the target's first answer, in
    seconds; `machine` is the target's machine, if it is known."""

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
    """The name that the target's console shows for its debugger."""
    return f"{getpass.getuser()}@{socket.gethostname()}"[:NAME_LIMIT]


async def run(plan: Plan) -> None:
    """Runs the whole session. RumplabError when it fails or ends early."""
    refuse_second_debugger(plan.place)
    why = ports.refusal(plan.port) if plan.port else None
    if why:
        raise RumplabError(f"port {plan.port} on 127.0.0.1 {why}; use another --port, or omit it")
    # Errors on the host come first, before the session with the kernel is opened.
    streams = await gdb_connection.standard_streams() if plan.port is None else None
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(contextlib.closing(Writer(plan.pcap))) if plan.pcap else None
        trace = Trace(lambda line: print(line, file=sys.stderr)) if plan.trace else None
        stop = stop_event()
        wire_trace = trace.wire if trace else None
        async with linked(plan.place, plan.key, plan.timing, capture, wire_trace) as link:
            if not await opened(link, plan, stop):
                raise RumplabError("interrupted before the target answered")
            stub = Stub(Target(link, plan.arch), say)
            # Read the registers before GDB connects: a wrong --arch fails here.
            await stub.area()
            acceptor = Acceptor(stub, say, trace.gdb if trace else None)
            await serve(acceptor, stub, plan, stop, streams)


def refuse_second_debugger(place: tuple[IPv4Address, int]) -> None:
    holder = holders.of_peer(str(place[0]), place[1])
    if holder:
        raise RumplabError(
            f"{place[0]}:{place[1]} is being debugged already ({holder}); a kernel has one debugger:"
            " end the other one first"
        )


def stop_event() -> asyncio.Event:
    """An event that SIGINT, SIGTERM and SIGHUP set."""
    stop = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def opened(link: Link, plan: Plan, stop: asyncio.Event) -> bool:
    """Opens the target; False when `stop` is set first. Silent when the target doesn't answer."""
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
    """The message that tells why the target hasn't answered yet."""
    where = f"{plan.place[0]}:{plan.place[1]}"
    if link.hints[Hint.REFUSED] and plan.place[0].is_loopback:
        return f"UDP port {plan.place[1]} of {plan.place[0]} is closed; does the machine run with its --forward?"
    if link.hints[Hint.REFUSED]:
        return f"the kernel of {where} runs and isn't in IPKDB yet; waiting up to {plan.patience:.0f} s"
    return f"{where} doesn't answer yet; waiting up to {plan.patience:.0f} s"


async def serve(acceptor: Acceptor, stub: Stub, plan: Plan, stop: asyncio.Event, streams: Streams | None) -> None:
    """Serves GDB until the session is over, the machine has ended, or `stop` is set; then detaches."""
    async with accepting(acceptor, plan, streams) as gdb:
        gone = asyncio.create_task(machine_gone(plan.machine))
        ends = {gdb, gone, asyncio.create_task(stop.wait()), asyncio.create_task(acceptor.closed.wait())}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
        if acceptor.failure is not None:
            raise acceptor.failure
        if plan.machine is not None and gone.done():
            name = plan.machine.name
            raise RumplabError(f"machine '{name}' has ended; read its console with: rumplab logs {name}")
        if not stub.over and gdb.done() and not stub.running:
            # A detaching GDB sends D or k. One that only disconnects, or was killed, leaves the kernel stopped.
            say("GDB has disconnected without detaching; the kernel stays stopped, and another session can continue")
            return
        if not stub.over:
            await detach(stub)
    say("detached: the kernel runs, and IPKDB can't stop it; to debug it again, restart it with -d")


@contextlib.asynccontextmanager
async def accepting(acceptor: Acceptor, plan: Plan, streams: Streams | None) -> AsyncIterator[asyncio.Task[None]]:
    """Accepts GDB on `streams`, else on a socket or TCP port. Yields a task that ends when no GDB can connect any
    more."""
    if streams is not None:
        say(f"{plan.place[0]}:{plan.place[1]} is stopped, {plan.arch.name}")
        yield asyncio.create_task(acceptor.accept(*streams))
        return
    where = f"{plan.place[0]}:{plan.place[1]}"
    # Only this user can enter the directory, so that no other user can open the socket at any time.
    with work_directory("ipkdb") as directory:
        remote = f"{ports.LOOPBACK}:{plan.port}" if plan.port else str(directory / SOCKET)
        server = await gdb_connection.listen(acceptor, remote, plan.port or 0)
        if plan.port:
            say(f"every user of this host can attach to {remote} and control the kernel; without --port only you can")
        older = "" if plan.port else f" (a GDB before 8.3: target remote | rumplab relay {remote})"
        print(f"{where} is stopped, {plan.arch.name}; in GDB: target remote {remote}{older}", flush=True)
        try:
            yield asyncio.create_task(server.serve_forever())
        finally:
            server.close()


async def machine_gone(machine: Machine | None) -> None:
    """Returns when `machine` has ended. Without a machine, never returns."""
    while machine is None or machine.alive():
        await asyncio.sleep(LOOK_SECONDS)


async def detach(stub: Stub) -> None:
    """Detaches from a stopped target. RumplabError when it runs: a running target handles no request."""
    timing = stub.target.link.timing
    try:
        await asyncio.wait_for(stub.detach(), timing.detaching if stub.running else timing.detaching + timing.patience)
    except asyncio.TimeoutError:
        left = ", ".join(f"{address:#x} (was {code.hex()})" for address, code in sorted(stub.breakpoints.code.items()))
        raise RumplabError(
            "the kernel runs, and IPKDB can't detach from a running one; at its next stop it waits for a debugger."
            f" Breakpoints that are still in it: {left or 'none'}"
        ) from None
