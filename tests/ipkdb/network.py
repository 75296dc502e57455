"""A simulated network that loses, repeats, delays and damages datagrams, and an event loop in virtual time."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class NoWait(selectors.SelectSelector):
    """A selector that advances its clock by the timeout instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise AssertionError("deadlock: every task waits, and no timer is set")
            self.now += max(timeout, 0)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. It raises AssertionError in a deadlock, where another loop would wait for ever."""

    def __init__(self) -> None:
        self.clock = NoWait()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run(main: Any, limit: float = 100_000.0) -> Any:
    """Run a coroutine in virtual time, for at most `limit` virtual seconds, and return its result."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, limit))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@dataclass(frozen=True)
class Impairment:
    """How the network treats each datagram: probabilities, and the delay plus up to `spread`, both in seconds.

    A spread reorders datagrams.
    """

    lose: float = 0.0
    repeat: float = 0.0
    damage: float = 0.0
    delay: float = 0.0005
    spread: float = 0.0


IDEAL = Impairment()


class Network:
    """Deliver datagrams in both directions, impaired as `impairment` says."""

    def __init__(self, impairment: Impairment, seed: int) -> None:
        self.impairment, self.random = impairment, random.Random(seed)
        self.carried = 0

    def carry(self, datagram: bytes, deliver: Callable[[bytes], None]) -> None:
        chance = self.random.random
        self.carried += 1
        for _ in range(2 if chance() < self.impairment.repeat else 1):
            if chance() < self.impairment.lose:
                continue
            copy = bytearray(datagram)
            if chance() < self.impairment.damage:
                copy[self.random.randrange(len(copy))] ^= 1 << self.random.randrange(8)
            delay = self.impairment.delay + chance() * self.impairment.spread
            asyncio.get_running_loop().call_later(delay, deliver, bytes(copy))
