"""A network that loses, repeats, delays and damages what it carries, and a clock that goes only when nobody works."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class NoWait(selectors.SelectSelector):
    """Turns the time that would be waited into time that has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise AssertionError("everybody waits, and nothing will ever happen")
            self.now += max(timeout, 0)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is its own. A run in which nothing can happen any more fails instead of hanging."""

    def __init__(self) -> None:
        self.clock = NoWait()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run(main: Any, limit: float = 100_000.0) -> Any:
    """Runs a coroutine in virtual time, at most `limit` seconds of it."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, limit))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@dataclass(frozen=True)
class Weather:
    """Chances for each datagram, and the delay in seconds, of which reordering comes."""

    lose: float = 0.0
    repeat: float = 0.0
    damage: float = 0.0
    delay: float = 0.0005
    spread: float = 0.0


FINE = Weather()


class Network:
    """Carries datagrams one way or the other, as `weather` has it."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self.weather, self.random = weather, random.Random(seed)
        self.carried = 0

    def carry(self, datagram: bytes, deliver: Callable[[bytes], None]) -> None:
        chance = self.random.random
        self.carried += 1
        for _ in range(2 if chance() < self.weather.repeat else 1):
            if chance() < self.weather.lose:
                continue
            copy = bytearray(datagram)
            if chance() < self.weather.damage:
                copy[self.random.randrange(len(copy))] ^= 1 << self.random.randrange(8)
            delay = self.weather.delay + chance() * self.weather.spread
            asyncio.get_running_loop().call_later(delay, deliver, bytes(copy))
