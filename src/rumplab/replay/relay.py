"""The relay between GDB and a recording: ``target remote | python … DIRECTORY EMULATOR`` in GDB.

GDB sends its remote protocol to standard input and reads standard output. The relay passes packets that only read to a
QEMU at GDB's position. The session (rumplab.replay.session) executes forwards and backwards. The relay refuses all
changes, since a recorded run can't change.

GDB's prompt waits until this module is loaded, so it imports little of the standard library.
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

from rumplab.errors import RumplabError
from rumplab.gdb import rsp
from rumplab.gdb.rsp import Packet, Sign
from rumplab.host.files import work_directory
from rumplab.host.process import interruptible, own_module
from rumplab.recording import record
from rumplab.recording.record import Recording
from rumplab.recording.removing import kept
from rumplab.replay import commands
from rumplab.replay.background import Background, pays
from rumplab.replay.faults import Fault, Interrupted
from rumplab.replay.player import Listener
from rumplab.replay.session import INTERRUPTED, Failed, Session

CHUNK = 1 << 16
OK, UNKNOWN, REFUSED = b"OK", b"", b"E01"
BACK_STEP, BACK = b"bs", b"bc"
# Packets that would change the guest, or start another one. An empty answer to X makes GDB use M.
CHANGES = (b"G", b"M", b"P")
NEVER = (b"X", b"R", b"!", b"vRun", b"vAttach", b"vKill", b"vFile", b"QNonStop")
ENDS = (b"D", b"k")
RCMD = b"qRcmd,"


class Disconnected(Exception):
    """GDB has closed the connection."""


class Gdb(Listener):
    """The connection to GDB: packets from the descriptor `source`, answers to the descriptor `sink`."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._parser = rsp.Parser()
        self._queue: deque[bytes] = deque()
        self._last = b""
        self._interrupt: Callable[[], None] | None = None

    def filenos(self) -> tuple[int, ...]:
        return (self._source,)

    def on_input(self) -> None:
        """Reads packets during a movement. Disconnected if GDB has closed the connection, Interrupted after Ctrl-C."""
        while select.select([self._source], [], [], 0)[0]:
            if Sign.INTERRUPT in self._take():
                if self._interrupt is None:
                    raise Interrupted
                self._interrupt()

    @contextlib.contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        self._interrupt = interrupt
        try:
            yield
        finally:
            self._interrupt = None

    def next(self) -> bytes:
        """Returns the data of the next packet."""
        while not self._queue:
            # Ignore a Ctrl-C between packets: the machine has stopped meanwhile.
            self._take()
        return self._queue.popleft()

    def send(self, data: bytes) -> None:
        self._last = rsp.frame(rsp.escape(data))
        self._write(self._last)

    def say(self, text: str) -> None:
        """Prints `text` in GDB."""
        self.send(b"O" + binascii.hexlify(text.encode("utf-8", "replace")))

    def _take(self) -> list[Sign]:
        """Reads GDB's input, queues the packets and returns the other signs."""
        try:
            data = os.read(self._source, CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            raise Disconnected
        signs: list[Sign] = []
        for event in self._parser.feed(data):
            if isinstance(event, Packet):
                self._write(b"+")
                self._queue.append(event.data)
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
            raise Disconnected from error


class Relay:
    """Answers the packets of GDB."""

    def __init__(self, gdb: Gdb, session: Session, background: Background | None = None) -> None:
        self._gdb, self._session, self._background = gdb, session, background
        self._commands = commands.MonitorCommands(session)

    def serve(self) -> None:
        """Answers packets until GDB ends the session or closes the connection."""
        with contextlib.suppress(Disconnected):
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
            self._gdb.say(f"rumplab: {error}; the position is unchanged\n")
            return INTERRUPTED if moves(data) else REFUSED

    def _answer(self, data: bytes) -> bytes:
        session = self._session
        if moves(data):
            return self._move(data)
        if data.startswith(RCMD):
            return self._command(data[len(RCMD) :])
        if data.startswith(b"qSupported"):
            return supported(session.ask(b"qSupported:xmlRegisters=i386"))
        if data[:1] in (b"Z", b"z"):
            return session.set_point(data)
        if data[:1] in CHANGES:
            return REFUSED
        if data.startswith(NEVER):
            return UNKNOWN
        if data == b"?":
            # QEMU removes all its breakpoints at this packet.
            session.forget_points()
            return session.ask(data)
        if data.startswith(b"D"):
            return OK
        return session.ask(data)

    def _move(self, data: bytes) -> bytes:
        message = self._background.message() if self._background else ""
        if message:
            self._gdb.say(f"rumplab: there are no more snapshots of this recording: {message}\n")
        target = self._commands.take_target()
        if target is not None:
            return self._session.go(target)
        if data == BACK_STEP:
            return self._session.backwards_step()
        if data == BACK:
            return self._session.backwards()
        action = direction(data)
        if action == b"s" and self._session.at_end:
            self._gdb.say("rumplab: the recording ends here; only reverse execution goes on\n")
        return self._session.forwards(action)

    def _command(self, digits: bytes) -> bytes:
        """Executes a command of GDB's `monitor`."""
        try:
            text = binascii.unhexlify(digits).decode()
        except ValueError:
            return REFUSED
        if commands.is_own(text):
            try:
                output = self._commands.do(text)
            except commands.InvalidCommand as error:
                self._gdb.say(f"{error}\n")
                return REFUSED
            return binascii.hexlify(output.encode()) if output else OK
        if not text.startswith("info "):
            self._gdb.say(f"'{text}' might change the run; use only the commands 'info …' of QEMU's monitor\n")
            return REFUSED
        return self._monitor(digits)

    def _monitor(self, digits: bytes) -> bytes:
        """Passes the command to QEMU, and all parts of its output to GDB."""
        answer = self._session.ask(RCMD + digits)
        while answer.startswith(b"O") and answer != OK:
            self._gdb.send(answer)
            answer = self._session.next_answer()
        return answer


def moves(data: bytes) -> bool:
    """Returns whether GDB expects a stop reply to the packet."""
    return data in (BACK, BACK_STEP) or data[:1] in (b"c", b"s", b"C", b"S") or data.startswith(b"vCont;")


def direction(data: bytes) -> bytes:
    """Returns s or c, the packet's action. The machine has one processor, and ignores signals."""
    action = data[len(b"vCont;") :] if data.startswith(b"vCont;") else data
    return action[:1].lower()


def supported(answer: bytes) -> bytes:
    """Returns the answer to qSupported: QEMU's own features and those that the relay adds."""
    kept = [part for part in answer.split(b";") if part.rstrip(b"+") not in OWN]
    return b";".join([*kept, *(name + b"+" for name in OWN)])


OWN = (b"ReverseStep", b"ReverseContinue", b"swbreak", b"hwbreak")


def argv(recording: Recording, qemu_img: str = "") -> list[str]:
    """Returns the command in GDB's 'target remote |' for `recording`. With the path `qemu_img`, the relay has snapshots
    taken in the background, if the recording is long."""
    return own_module("rumplab.replay.relay", *recording.words(), qemu_img)


def main(arguments: Sequence[str]) -> int:
    """Entry point; GDB runs it with the arguments from argv(). `rumplab debug` has verified the recording before."""
    *words, qemu_img = arguments
    # A terminal sends Ctrl-C to all its processes. GDB reacts to it, and tells the relay.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        recording = record.reopened(words)
        with interruptible(), kept(recording.directory), work_directory("replay") as work:
            gdb = Gdb(sys.stdin.fileno(), sys.stdout.fileno())
            with contextlib.closing(Session(recording, work, gdb)) as session, contextlib.ExitStack() as stack:
                background = None
                if pays(recording, qemu_img):
                    background = stack.enter_context(contextlib.closing(Background(recording, qemu_img, work)))
                Relay(gdb, session, background).serve()
    except (RumplabError, Fault, OSError) as error:
        print(f"rumplab: {error}", file=sys.stderr, flush=True)
        return 1
    except Disconnected:
        return 0
    return 0
