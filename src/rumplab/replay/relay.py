"""Between GDB and a recording: ``target remote | python … DIRECTORY EMULATOR`` in GDB.

GDB speaks its remote protocol on standard input and output. What only looks goes to a QEMU that stands where GDB is.
What moves, forwards or backwards, is the session's (rumplab.replay.session). Nothing can be changed: a run that was
recorded is as it was.

GDB's prompt waits for this module to load, which is why it does without much of the standard library.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import select
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import rumplab
from rumplab.errors import RumplabError
from rumplab.gdb import rsp
from rumplab.gdb.rsp import Packet, Sign
from rumplab.host.files import work_directory
from rumplab.host.process import interruptible
from rumplab.recording import record
from rumplab.recording.removing import kept
from rumplab.replay import orders
from rumplab.replay.faults import Fault, Interrupted
from rumplab.replay.player import Listener
from rumplab.replay.session import INTERRUPTED, Failed, Session

CHUNK = 1 << 16
OK, UNKNOWN, REFUSED = b"OK", b"", b"E01"
# This very module, whatever the working directory and the user's Python settings hold. It needs no site-packages.
CALL = (
    "import sys; sys.path.insert(0, sys.argv[1]); from rumplab.replay.relay import main; sys.exit(main(sys.argv[2:]))"
)
BACK_STEP, BACK = b"bs", b"bc"
# Packets that would change the guest, or start another. X is refused as unknown, so that GDB takes M.
CHANGES = (b"G", b"M", b"P")
NEVER = (b"X", b"R", b"!", b"vRun", b"vAttach", b"vKill", b"vFile", b"QNonStop")
ENDS = (b"D", b"k")
RCMD = b"qRcmd,"
CHANGED = "a recorded run can't be changed: it is as it was\n"


class Gone(Exception):
    """GDB has gone."""


class Gdb(Listener):
    """GDB's end: packets from the file `source`, answers to the file `sink`."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._parser = rsp.Parser()
        self._commands: deque[bytes] = deque()
        self._last = b""
        self._interrupt: Callable[[], None] | None = None

    def filenos(self) -> tuple[int, ...]:
        return (self._source,)

    def heard(self) -> None:
        """While something is under way: Gone when GDB has, Interrupted at its Ctrl-C."""
        while select.select([self._source], [], [], 0)[0]:
            if Sign.INTERRUPT in self._take():
                if self._interrupt is None:
                    raise Interrupted
                self._interrupt()

    @contextlib.contextmanager
    def passing(self, interrupt: Callable[[], None]) -> Iterator[None]:
        self._interrupt = interrupt
        try:
            yield
        finally:
            self._interrupt = None

    def next(self) -> bytes:
        """The next packet's data."""
        while not self._commands:
            # A Ctrl-C that comes between packets has crossed the report of a stop, and has what it wants.
            self._take()
        return self._commands.popleft()

    def send(self, data: bytes) -> None:
        self._last = rsp.frame(rsp.escape(data))
        self._write(self._last)

    def say(self, text: str) -> None:
        """What GDB shows to its user."""
        self.send(b"O" + binascii.hexlify(text.encode("utf-8", "replace")))

    def _take(self) -> list[Sign]:
        """Reads what GDB has sent; the signs in it."""
        try:
            data = os.read(self._source, CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            raise Gone
        signs: list[Sign] = []
        for event in self._parser.feed(data):
            if isinstance(event, Packet):
                self._write(b"+")
                self._commands.append(event.data)
            elif event is Sign.BROKEN:
                self._write(b"-")
            elif event is Sign.NAK:
                self._write(self._last)
            else:
                signs.append(event)
        return signs

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._sink, data) :]
        except ConnectionError as error:
            raise Gone from error


class Relay:
    """Answers GDB's packets."""

    def __init__(self, gdb: Gdb, session: Session) -> None:
        self._gdb, self._session = gdb, session
        self._orders = orders.Orders(session)

    def serve(self) -> None:
        """Until GDB ends the session, or goes."""
        with contextlib.suppress(Gone):
            while True:
                data = self._gdb.next()
                if data.startswith(b"k"):
                    return
                self._gdb.send(self._answered(data))
                if data.startswith(b"D"):
                    return

    def _answered(self, data: bytes) -> bytes:
        try:
            return self._answer(data)
        except (Failed, Fault) as error:
            self._gdb.say(f"rumplab: {error}; the session is where it was\n")
            return INTERRUPTED if moves(data) else REFUSED

    def _answer(self, data: bytes) -> bytes:
        session = self._session
        if moves(data):
            return self._move(data)
        if data.startswith(RCMD):
            return self._order(data[len(RCMD) :])
        if data.startswith(b"qSupported"):
            return supported(session.ask(b"qSupported:xmlRegisters=i386"))
        if data[:1] in (b"Z", b"z"):
            return session.set_point(data)
        if data[:1] in CHANGES:
            return REFUSED
        if data.startswith(NEVER):
            return UNKNOWN
        if data == b"?":
            # QEMU clears its points then, and has nothing to say of another QEMU's stop.
            session.forget_points()
            return session.ask(data)
        if data.startswith(b"D"):
            return OK
        return session.ask(data)

    def _move(self, data: bytes) -> bytes:
        going = self._orders.going()
        if going is not None:
            return self._session.go(going)
        if data == BACK_STEP:
            return self._session.backwards_step()
        if data == BACK:
            return self._session.backwards()
        return self._session.forwards(direction(data))

    def _order(self, digits: bytes) -> bytes:
        """Does a command of GDB's `monitor`."""
        try:
            text = binascii.unhexlify(digits).decode()
        except ValueError:
            return REFUSED
        if orders.is_own(text):
            try:
                said = self._orders.do(text)
            except orders.Misuse as error:
                self._gdb.say(f"{error}\n")
                return REFUSED
            return binascii.hexlify(said.encode()) if said else OK
        if not text.startswith("info "):
            self._gdb.say(f"'{text}' might change the run: of QEMU's monitor there is 'info' here\n")
            return REFUSED
        return self._monitor(digits)

    def _monitor(self, digits: bytes) -> bytes:
        """Passes QEMU's own answer on, which comes in pieces."""
        answer = self._session.ask(RCMD + digits)
        while answer.startswith(b"O") and answer != OK:
            self._gdb.send(answer)
            answer = self._session.next_answer()
        return answer


def moves(data: bytes) -> bool:
    """Whether GDB waits for the report of a stop."""
    return data in (BACK, BACK_STEP) or data[:1] in (b"c", b"s", b"C", b"S") or data.startswith(b"vCont;")


def direction(data: bytes) -> bytes:
    """s or c: which of both the packet asks for. There is one processor; signals mean nothing to it."""
    action = data[len(b"vCont;") :] if data.startswith(b"vCont;") else data
    return action[:1].lower()


def supported(answer: bytes) -> bytes:
    """What GDB is told of the stub: what QEMU's own is able to do, and what the relay adds."""
    kept = [part for part in answer.split(b";") if part.rstrip(b"+") not in OWN]
    return b";".join([*kept, *(name + b"+" for name in OWN)])


OWN = (b"ReverseStep", b"ReverseContinue", b"swbreak", b"hwbreak")


def argv(directory: Path, emulator: str) -> list[str]:
    """The command that GDB's pipe runs for the recording in `directory`."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(rumplab.__file__)))
    return [sys.executable, "-I", "-S", "-c", CALL, root, str(directory), emulator]


def main(arguments: Sequence[str]) -> int:
    """Entry point, run by GDB with the words of `argv`. Whoever calls has looked at the recording."""
    directory, emulator = arguments
    # A terminal sends Ctrl-C to everything on it; what it means is for GDB to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible(), kept(Path(directory)), work_directory("replay") as work:
            recording = record.read(Path(directory)).run_by(emulator)
            gdb = Gdb(sys.stdin.fileno(), sys.stdout.fileno())
            session = Session(recording, work, gdb)
            try:
                Relay(gdb, session).serve()
            finally:
                session.close()
    except (RumplabError, Fault, OSError) as error:
        print(f"rumplab: {error}", file=sys.stderr, flush=True)
        return 1
    except Gone:
        return 0
    return 0
