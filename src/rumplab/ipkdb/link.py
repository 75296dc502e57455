"""Requests and replies over a network that loses, repeats, reorders and damages datagrams.

The kernel never sends a packet again by itself: whatever arrives that isn't its next request makes it repeat its
last reply. So all patience is here. A request keeps its sequence number until its reply has come, however often
it is sent, and the kernel takes a sequence number once: each request is carried out once or, when the target
stays silent, at most once.
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
# Stop and wait: more than a few packets on the way are repetitions.
INBOX = 64
JITTER = 0.25
# Seconds for which a reply may hold up everything else.
LINGER = 0.003


class Hint(Enum):
    """What the host's network says about datagrams that were sent."""

    REFUSED = "port unreachable"
    UNREACHABLE = "host unreachable"
    DAMAGED = "bad HMAC"


@dataclass(frozen=True)
class Timing:
    """Seconds. A request is sent again after `first`, or what the round trips seen suggest, at least `least`; then
    ever later, up to `most`. `patience` bounds a request; `parting` what is asked of a target on the way out."""

    first: float = 0.25
    least: float = 0.05
    most: float = 1.0
    patience: float = 10.0
    parting: float = 3.0


class Link:
    """The host's end of one session. `send` puts a datagram on the wire; `received` and `hinted` are called with
    what comes back. `trace` hears of each packet, with '>' or '<'. One request at a time.

    `linger`, if there is one, waits for up to that many seconds for what comes, without letting anything else run: a
    kernel nearby answers sooner than the event loop gets round to it."""

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
        # Of the next request, and of the session.
        self.sequence = 0
        self.identity = 0
        self._authentic = False
        self._mean, self._deviation = 0.0, 0.0
        # Of the request under way, or the last one that had no answer.
        self.hints: dict[Hint, int] = dict.fromkeys(Hint, 0)
        # A request whose fate isn't known. Its sequence number can't be given to another one.
        self.pending: bytes | None = None

    def received(self, datagram: bytes) -> None:
        """Takes what the wire delivers; never raises."""
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
        """Takes what the host's network says; never raises."""
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
        """What has come first, waiting for it until the loop's clock says `until`; None if nothing has."""
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
        """Opens a session, whatever the target did before. WrongKey, Silent, or Lost."""
        # NetBSD takes the id of the last session for a repetition, and its first one is 0.
        identity = self.identity
        while identity in (0, self.identity):
            identity = self._rng.randrange(SEQUENCE)
        self.identity, self.sequence, self._authentic, self.pending = identity, 0, False, None
        reply = await self.request(packet.open_request(identity, who), patience)
        if reply != packet.STOPPED:
            raise Unexpected(f"the target answered the opening with {reply!r}, which isn't IPKDB")

    async def request(self, data: bytes, patience: float | None = None) -> bytes:
        """The data of the reply to `data`. Refused, Silent, WrongKey or Unexpected."""
        return self._checked(await self._exchange(data, self.timing.patience if patience is None else patience))

    async def resume(self, data: bytes) -> None:
        """Steps or continues; returns when the target has stopped again, however long that takes.

        Nothing tells a request that was lost from a target that runs, so it is repeated all the while; a running
        kernel throws it away, and one that has stopped repeats that it has.
        """
        if self._checked(await self._exchange(data, None)) != packet.STOPPED:
            raise Unexpected("the target answered a resumption with something else than a stop")

    async def _exchange(self, data: bytes, patience: float | None) -> bytes:
        if self.pending is not None:
            raise Lost("an earlier request hasn't been answered, so the target can't be asked anything else")
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
            # A target that continues may run for long, and a repetition has waited already.
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
                    # At once, but not for every one: the repetition may be damaged too.
                    again, hastened = not hastened, True
                elif item is None:
                    again = True
                    hastened = False
                    pause = min(2 * pause, self.timing.most)
            repeated = True
        raise Silent(self.silence(patience or 0.0))

    def silence(self, seconds: float) -> str:
        """What a silence of `seconds` may mean, by what else was heard."""
        if self.hints[Hint.REFUSED]:
            why = "only that nobody listens there (the kernel runs, or the machine is gone)"
        elif self.hints[Hint.UNREACHABLE]:
            why = "only that there is no such host"
        else:
            why = "nothing"
        if not self._authentic:
            return f"heard {why} for {seconds:.0f} s"
        return (
            f"heard {why} for {seconds:.0f} s: the target was restarted, hangs, or another debugger has opened it;"
            " what was asked last may have been done or not; attach again"
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
        """Smooths round trips as TCP does (RFC 6298), without those that may be a repetition's."""
        if not self._mean:
            self._mean, self._deviation = seconds, seconds / 2
        else:
            self._deviation += (abs(seconds - self._mean) - self._deviation) / 4
            self._mean += (seconds - self._mean) / 8
