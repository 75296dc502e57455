"""The tool's link and stub, connected to the simulated kernel through the simulated network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from ipkdb.kernel import KEY, Kernel
from ipkdb.network import IDEAL, Impairment, Network
from rumplab.ipkdb.arch import I386
from rumplab.ipkdb.gdb_server import Stub
from rumplab.ipkdb.link import Hint, Link, Timing
from rumplab.ipkdb.target import Target

HOST = ("192.0.2.1", 40000)


class Bench:
    """A kernel and a link to it. It needs a running event loop. `links` has each host's link, by (address, port)."""

    def __init__(self, impairment: Impairment = IDEAL, seed: int = 0, key: bytes = KEY, refusals: bool = True) -> None:
        self.network = Network(impairment, seed)
        self.refusals = refusals
        self.links: dict[object, Link] = {}
        self.kernel = Kernel(self._to_host, self._later, KEY, self._refuse)
        self.said: list[str] = []
        self.link = self.add(HOST, key)

    def add(self, peer: object, key: bytes = KEY) -> Link:
        """Add a host, and return its link."""

        def send(datagram: bytes) -> None:
            self.network.carry(datagram, lambda copy: self.kernel.receive(copy, peer))

        link = Link(key, send, Timing(), random.Random(self.network.random.random()))
        self.links[peer] = link
        return link

    def stub(self) -> Stub:
        return Stub(Target(self.link, I386), self.said.append)

    def _to_host(self, datagram: bytes, peer: object) -> None:
        self.network.carry(datagram, lambda copy: self.links[peer].received(copy))

    def _refuse(self, peer: object) -> None:
        if self.refusals:
            self.links[peer].hinted(Hint.REFUSED)

    @staticmethod
    def _later(seconds: float, act: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, act)
