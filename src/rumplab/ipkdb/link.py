"""Requests and replies over a network that loses, repeats, reorders and damages datagrams.

The kernel has no timer: it repeats its last reply only when it receives something other than the next request. So the
host repeats requests. A request keeps its sequence number until its reply arrives, and the kernel accepts each sequence
number once. So each request is executed exactly once, or at most once if the target doesn't answer.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from rumplab.ipkdb import packet
from rumplab.ipkdb.faults import Lost, Refused, Silent, Unexpected, WrongKey
from rumplab.ipkdb.packet import BadMac, Malformed, Packet

SEQUENCE = 2**32
# The protocol is stop-and-wait, so a longer queue could only hold repetitions.
INBOX = 64
JITTER = 0.25
# Seconds for which waiting for a reply may block the event loop.
LINGER = 0.003


class Hint(Enum):
    """Signs other than a valid reply: an ICMP error of the host's network, or a datagram with a wrong HMAC."""

    REFUSED = "port unreachable"
    UNREACHABLE = "host unreachable"
    DAMAGED = "bad HMAC"


@dataclass(frozen=True)
class Timing:
    """Times in seconds. A request is repeated after `first`, or once round trips have been measured, after the time
    that they suggest, but at least `least`. The interval then doubles, up to `most`. `patience` limits a request,
    `detaching` the request to detach."""

    first: float = 0.25
    least: float = 0.05
    most: float = 1.0
    patience: float = 10.0
    detaching: float = 3.0


class Link:
    """The host's end of one session, with one request at a time. `send` sends a datagram. The owner calls `received`
    and `hinted` with what the network delivers. `trace` is called with '>' or '<' and each packet.

    `linger`, if given, waits up to so many seconds for a datagram and blocks the event loop meanwhile. A nearby kernel
    answers faster than the event loop polls its sockets."""

    def __init__(
        self,
        key: bytes,
        send: Callable[[bytes], None],
        timing: Timing,
        rng: random.Random,
        trace: Callable[[str, Packet], None] | None = None,
        linger: Callable[[float], None] | None = None,
    ) -> None:
        self.key, self.timing, self._linger = key, timing, linger
        self.send, self._rng, self._trace = send, rng, trace or (lambda direction, one: None)
        self._inbox: deque[Packet | Hint] = deque(maxlen=INBOX)
        self._waiter: asyncio.Future[None] | None = None
        # The sequence number of the next request, and the id of the session.
        self.sequence = 0
        self.identity = 0
        self._authentic = False
        self._mean, self._deviation = 0.0, 0.0
        # The hints since the current request was first sent; after a failure, those of the failed request.
        self.hints: dict[Hint, int] = dict.fromkeys(Hint, 0)
        # A request without an answer. The kernel may have executed it, so no other request can use its sequence number.
        self.pending: bytes | None = None

    def received(self, datagram: bytes) -> None:
        """Handles a datagram from the network; never raises."""
        try:
            reply = packet.decode(datagram, self.key)
        except Malformed:
            return
        except BadMac:
            self._put(Hint.DAMAGED)
            return
        self._trace("<", reply)
        self._put(reply)

    def hinted(self, hint: Hint) -> None:
        """Handles an error of the host's network; never raises."""
        self._put(hint)

    def _put(self, item: Packet | Hint) -> None:
        if isinstance(item, Hint):
            self.hints[item] += 1
        self._inbox.append(item)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self, until: float) -> Packet | Hint | None:
        """The oldest item that has arrived. Waits for one until the event loop's time `until`; None if none arrives."""
        if not self._inbox:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_at(until, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self._inbox.popleft() if self._inbox else None

    async def open(self, who: str, patience: float) -> None:
        """Opens a new session. WrongKey, Silent, Unexpected or Lost when that fails."""
        # NetBSD treats an opening with the id of its last session as a repetition. Its id after boot is 0.
        identity = self.identity
        while identity in (0, self.identity):
            identity = self._rng.randrange(SEQUENCE)
        self.identity, self.sequence, self._authentic, self.pending = identity, 0, False, None
        reply = await self.request(packet.open_request(identity, who), patience)
        if reply != packet.STOPPED:
            raise Unexpected(f"the target answered the opening with {reply!r}, which isn't IPKDB")

    async def request(self, data: bytes, patience: float | None = None) -> bytes:
        """The data of the reply to the request `data`. Refused, Silent, WrongKey or Lost when that fails."""
        return self._checked(await self._exchange(data, self.timing.patience if patience is None else patience))

    async def resume(self, data: bytes) -> None:
        """Steps or continues; returns when the target has stopped again, without a time limit.

        The host can't distinguish a lost request from a running target, so it repeats the request all the time. A
        running kernel drops it; a stopped one repeats its reply.
        """
        if self._checked(await self._exchange(data, None)) != packet.STOPPED:
            raise Unexpected("the target answered a step or continue request with something other than a stop")

    async def _exchange(self, data: bytes, patience: float | None) -> bytes:
        if self.pending is not None:
            raise Lost("the target hasn't answered an earlier request, so it can't handle another one; attach again")
        self.pending = data
        self.hints = dict.fromkeys(Hint, 0)
        loop = asyncio.get_running_loop()
        start = loop.time()
        deadline = None if patience is None else start + patience
        outgoing = Packet(self.sequence, data)
        datagram = packet.encode(outgoing, self.key)
        pause = self._pause()
        repeated, hastened = False, False
        while deadline is None or loop.time() < deadline:
            self._trace(">", outgoing)
            self.send(datagram)
            # Don't block for a target that continues: it may run for long. A repetition has waited already.
            if self._linger is not None and not repeated and data != packet.CONTINUE:
                self._linger(LINGER)
            until = loop.time() + pause * self._rng.uniform(1 - JITTER, 1 + JITTER)
            if deadline is not None:
                until = min(until, deadline)
            again = False
            while not again:
                item = await self.next(until)
                if isinstance(item, Packet):
                    self._authentic = True
                    if item.seq == self.sequence:
                        self.sequence = (self.sequence + 1) % SEQUENCE
                        self.pending = None
                        if not repeated:
                            self._measure(loop.time() - start)
                        return item.data
                elif item is Hint.DAMAGED:
                    if not self._authentic:
                        raise WrongKey
                    # Repeat at once, but only for the first damaged reply: the repeated reply may be damaged too.
                    again, hastened = not hastened, True
                elif item is None:
                    again = True
                    hastened = False
                    pause = min(2 * pause, self.timing.most)
            repeated = True
        raise Silent(self.silence(patience or 0.0))

    def silence(self, seconds: float) -> str:
        """The message for a target that didn't answer for `seconds`, with the hints that arrived."""
        if self.hints[Hint.REFUSED]:
            why = "only that nobody listens there (the kernel runs, or the machine has ended)"
        elif self.hints[Hint.UNREACHABLE]:
            why = "only that the host is unreachable"
        else:
            why = "nothing"
        if not self._authentic:
            return f"heard {why} for {seconds:.0f} s"
        return (
            f"heard {why} for {seconds:.0f} s: the target was restarted, hangs, or another debugger has opened it;"
            " it may or may not have executed the last request; attach again"
        )

    @staticmethod
    def _checked(data: bytes) -> bytes:
        if data.startswith(packet.ERROR):
            raise Refused(f"the target says: {data[1:].decode('ascii', 'replace')!r}")
        return data

    def _pause(self) -> float:
        if not self._mean:
            return self.timing.first
        return min(max(self._mean + 4 * self._deviation, self.timing.least), self.timing.most)

    def _measure(self, seconds: float) -> None:
        """Updates the smoothed round-trip time as TCP does (RFC 6298). The caller omits repeated requests, whose round
        trip is ambiguous."""
        if not self._mean:
            self._mean, self._deviation = seconds, seconds / 2
        else:
            self._deviation += (abs(seconds - self._mean) - self._deviation) / 4
            self._mean += (seconds - self._mean) / 8
