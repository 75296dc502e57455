"""The simulated kernel behind a real UDP socket on 127.0.0.1, in a thread.

Run as a program with a port, it prints the port and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from ipkdb.kernel import KEY, Kernel
from ipkdb.network import IDEAL, Impairment, Network

TIMEOUT = 20


class Protocol(asyncio.DatagramProtocol):
    def __init__(self, impairment: Impairment, seed: int, key: bytes) -> None:
        self.network = Network(impairment, seed)
        self.transport: Any = None
        self.kernel = Kernel(self.reply, self.later, key)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.network.carry(data, lambda copy: self.kernel.receive(copy, addr))

    def reply(self, data: bytes, peer: object) -> None:
        self.network.carry(data, lambda copy: self.transport.sendto(copy, peer))

    @staticmethod
    def later(seconds: float, act: Any) -> None:
        asyncio.get_running_loop().call_later(seconds, act)


class Server:
    """A context manager that runs the kernel. Read `kernel` only while no debugger sends requests."""

    def __init__(self, impairment: Impairment = IDEAL, seed: int = 0, key: bytes = KEY, port: int = 0) -> None:
        self.impairment, self.seed, self.key, self.port = impairment, seed, key, port
        self.kernel: Kernel
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        if not self._ready.wait(TIMEOUT):
            raise AssertionError("the simulated kernel did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)

    def call(self, act: Any, *arguments: Any) -> None:
        """Call `act` in the kernel's thread."""
        self._loop.call_soon_threadsafe(act, *arguments)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> asyncio.DatagramTransport:
            transport, protocol = await self._loop.create_datagram_endpoint(
                lambda: Protocol(self.impairment, self.seed, self.key), local_addr=("127.0.0.1", self.port)
            )
            self.port = transport.get_extra_info("sockname")[1]
            self.kernel = protocol.kernel
            return transport

        transport = self._loop.run_until_complete(start())
        self._ready.set()
        self._loop.run_forever()
        transport.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


if __name__ == "__main__":
    with Server(port=int(sys.argv[1])) as server:
        print(server.port, flush=True)
        threading.Event().wait()
