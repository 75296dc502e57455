"""The translator's side towards GDB: the connection of one GDB, and the socket, TCP port or pipe that it uses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections import deque
from collections.abc import Callable

from rumplab.errors import RumplabError
from rumplab.gdb import rsp
from rumplab.gdb.rsp import Packet, Sign
from rumplab.host import ports
from rumplab.ipkdb.faults import Lost
from rumplab.ipkdb.gdb_server import BAD_COMMAND, CANNOT_INTERRUPT, Stub

CHUNK = 4096
# The number of packets that are queued while one is handled. GDB sends none meanwhile; a client that does is slowed
# down by flow control.
WAITING = 16
# Seconds to wait until GDB closes its connection after the session is lost.
HANG_UP_SECONDS = 1.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
NO_STREAM = "--stdio is for GDB's own pipe: target remote | rumplab ipkdb connect --stdio …"
NO_ACKS = b"QStartNoAckMode"
# The commands that resume the target.
RESUMING = (b"c", b"s")


class Conversation:
    """The connection of one GDB. `trace` is called with each packet, and with '>' for GDB's packets or '<' for the
    translator's."""

    def __init__(
        self,
        stub: Stub,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        trace: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self.stub, self.reader, self.writer = stub, reader, writer
        # asyncio allocates a buffer of this size for each read; its default is 256 KiB.
        writer.transport.max_size = CHUNK  # type: ignore[attr-defined]
        self._trace = trace or (lambda direction, data: None)
        self._acks = True
        self._last = b""
        self._gone = False
        # The received events that aren't handled yet; None is the end of the stream.
        self._events: deque[Packet | Sign | None] = deque()
        self._room = asyncio.Event()
        self._waiter: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Serves GDB until GDB disconnects or the session is over. Lost when the target is lost; GDB has the error
        reply by then."""
        pump = asyncio.create_task(self._pump())
        try:
            while not (self._gone or self.stub.over):
                if not self._events:
                    await self._wait()
                    continue
                event = self._events.popleft()
                self._room.set()
                if event is None:
                    return
                await self._take(event)
        except ConnectionError:
            return
        finally:
            pump.cancel()

    async def _pump(self) -> None:
        """Queues what GDB sends as events, and answers a command at once if its reply is cached."""
        parser = rsp.Parser()
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(CHUNK):
                for event in parser.feed(data):
                    if event is Sign.ACK or (isinstance(event, Packet) and self._quick(event.data)):
                        continue
                    while len(self._events) >= WAITING:
                        self._room.clear()
                        await self._room.wait()
                    self._events.append(event)
                    self._wake()
        self._events.append(None)
        self._wake()

    def _quick(self, data: bytes) -> bool:
        """Answers a command from the cache; False when the reply isn't cached, another command is being handled, or GDB
        hasn't read the earlier replies."""
        if self._waiter is None or self._events or self.writer.transport.get_write_buffer_size():
            return False
        reply = self.stub.ready(data)
        if reply is None:
            return False
        self._accept(data)
        self._send(reply)
        return True

    async def _wait(self) -> None:
        """Waits until `_wake` is called."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _take(self, event: Packet | Sign) -> None:
        if isinstance(event, Packet):
            self._accept(event.data)
            await self._do(event.data)
        elif event is Sign.NAK:
            self.writer.write(self._last)
        elif event is Sign.BROKEN and self._acks:
            self.writer.write(b"-")
        # An interrupt between commands needs no action: the target stopped while GDB sent it.
        await self.writer.drain()

    def _accept(self, data: bytes) -> None:
        self._trace(">", data)
        if self._acks:
            self.writer.write(b"+")

    async def _do(self, data: bytes) -> None:
        resumes = data[:1] in RESUMING
        try:
            if resumes or self.stub.running:
                task = asyncio.create_task(self.stub.handle(data))
                await self._listen_beside(task)
                if not task.done():
                    self.stub.finish_in_background(task)
                    return
                reply = task.result()
            else:
                reply = await self.stub.handle(data)
        except Lost as error:
            if resumes:
                self._console(f"rumplab: {error}\n")
            self._send(BAD_COMMAND)
            raise
        if reply is not None:
            self._send(reply)
        if resumes:
            await self.stub.look_ahead()
        if data == NO_ACKS:
            self._acks = False

    async def _listen_beside(self, task: asyncio.Task[bytes | None]) -> None:
        """Waits until `task` is done, or until GDB has disconnected while the target runs. Answers interrupts."""
        task.add_done_callback(self._wake)
        while not task.done():
            for _ in range(len(self._events)):
                event = self._events.popleft()
                if event is None:
                    self._gone = True
                elif event is not Sign.INTERRUPT:
                    self._events.append(event)
                elif self.stub.running:
                    self._console(CANNOT_INTERRUPT)
            self._room.set()
            if self._gone and self.stub.running:
                return
            await self._wait()

    def _console(self, text: str) -> None:
        """Has GDB show `text` to its user. GDB accepts that only while the target runs."""
        self._send(b"O" + text.encode("ascii", "replace").hex().encode("ascii"))

    def _send(self, data: bytes) -> None:
        self._trace("<", data)
        self._last = rsp.frame(data)
        self.writer.write(self._last)


class Acceptor:
    """Accepts one GDB at a time. `closed` is set when the session is over; `failure` is the error if it was lost."""

    def __init__(
        self, stub: Stub, say: Callable[[str], None], trace: Callable[[str, bytes], None] | None = None
    ) -> None:
        self._stub, self._say, self._trace = stub, say, trace
        self._busy = False
        self.closed = asyncio.Event()
        self.failure: Lost | None = None

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one GDB. Closes the connection at once while another GDB is connected."""
        if self._busy:
            self._say("a second GDB was refused: a session serves one GDB at a time")
            writer.close()
            return
        self._busy = True
        try:
            await Conversation(self._stub, reader, writer, self._trace).run()
        except Lost as error:
            self.failure = error
            await shut_down(reader, writer)
        finally:
            self._busy = False
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()
        if self.failure is not None or self._stub.over:
            self.closed.set()
        else:
            self._say("GDB has disconnected; the target's state is unchanged, and another GDB can connect")


async def shut_down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Shuts down the sending side, then reads until GDB closes the connection, for HANG_UP_SECONDS seconds at most.
    Closing a connection with unread data resets it, and GDB would lose the last reply."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        writer.write_eof()
        await asyncio.wait_for(discard_all(reader), HANG_UP_SECONDS)


async def discard_all(reader: asyncio.StreamReader) -> None:
    """Reads until the end of the stream and discards the data."""
    while await reader.read(CHUNK):
        pass


async def listen(acceptor: Acceptor, remote: str, port: int) -> asyncio.Server:
    """A server that accepts GDB on `port` of 127.0.0.1, or with port 0 on the UNIX socket `remote`, which only this
    user can open. RumplabError when the port is in use."""
    if not port:
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(acceptor.accept, remote)
        finally:
            os.umask(before)
    try:
        return await asyncio.start_server(acceptor.accept, ports.LOOPBACK, port)
    except OSError as error:
        raise RumplabError(f"port {port} on 127.0.0.1: {error.strerror}; use another --port") from error


def is_stream(mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def standard_streams() -> Streams:
    """Standard input and output as streams. Closing them leaves standard input and output open. RumplabError unless
    they are pipes or a socket."""
    for number in (0, 1):
        # The event loop can't wait for input from a file or /dev/null.
        if not is_stream(os.fstat(number).st_mode):
            raise RumplabError(NO_STREAM)
    given, taken = os.dup(0), os.dup(1)
    if stat.S_ISSOCK(os.fstat(given).st_mode):
        # GDB's pipe is one socket for both directions.
        os.close(taken)
        return await asyncio.open_connection(sock=socket.socket(fileno=given))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(given, "rb"))
        # A StreamWriter needs a protocol with flow control; StreamReaderProtocol has it.
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(taken, "wb")
        )
    except ValueError as error:
        raise RumplabError(NO_STREAM) from error
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
