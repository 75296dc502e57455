"""Compare a step through `rumplab ipkdb` with one through QEMU's stub, and the read rate with the limit of the line.

    tools/python bench/ipkdb.py [ROUNDS]

The benchmark needs gcc, make, QEMU and GDB on PATH. It builds examples/ipkdb and runs it without acceleration, with
QEMU's stub on one port and IPKDB on another. Both sides run alternately, ROUNDS (default 5) times. The time of a step
is the difference between a session of many steps and one of few, divided by the difference in steps: this excludes
GDB's start. The time to read 1 MiB is measured in the same way. The limit of the line is the rate of a client that
only requests the same MiB and waits for each reply. The benchmark prints medians and ratios, and asserts nothing.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kgdb.guest import Guest
from support.demos import IPKDB_EXAMPLE, build

from rumplab.host import ports
from rumplab.ipkdb import packet
from rumplab.ipkdb.packet import Packet

KEY = b"a key for measurements"
ROUNDS = 5
FEW, MANY = 10, 1010
MIB = 1 << 20
TIMEOUT = 600
TRIES = 100


def address_of(program: Path, symbol: str) -> int:
    names = subprocess.run(["nm", program], capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    found = re.search(rf"^([0-9a-f]+) \w {symbol}$", names, re.MULTILINE)
    assert found
    return int(found[1], 16)


def gdb(remote: str, *commands: str) -> float:
    """Return the seconds that a GDB session with these commands takes."""
    first = ("set confirm off", "set pagination off", f"target remote {remote}")
    argv = ["gdb", "-nx", "-batch", *(part for one in (*first, *commands) for part in ("-ex", one))]
    began = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode or "Remote connection closed" in done.stdout + done.stderr:
        sys.exit(f"{' '.join(argv)}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


class Translator:
    """A process of `rumplab ipkdb`, which serves GDB sessions one after the other at `remote`."""

    def __init__(self, port: int) -> None:
        environment = {**os.environ, "RUMPLAB_IPKDB_KEY": KEY.decode()}
        argv = [sys.executable, "-m", "rumplab", "ipkdb", "--target", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        said = re.search(r"target remote (\S+)", line)
        if said is None:
            sys.exit("bench/ipkdb.py: rumplab ipkdb did not start; run: rumplab ipkdb --target 127.0.0.1:1138")
        self.remote = said[1]

    def __enter__(self) -> Translator:
        return self

    def __exit__(self, *_: object) -> None:
        # SIGTERM would continue the target, and the next session needs it stopped.
        self.process.kill()
        self.process.wait(10)


def round_trip(port: int, address: int) -> float:
    """Return the mean seconds from a read request of the largest size to its reply, over 1 MiB, without a debugger."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.settimeout(1)
        wire.connect(("127.0.0.1", port))

        def ask(seq: int, data: bytes) -> float:
            for _ in range(TRIES):
                began = time.perf_counter()
                wire.send(packet.encode(Packet(seq, data), KEY))
                try:
                    while packet.decode(wire.recv(packet.DATAGRAM_LIMIT), KEY).seq != seq:
                        pass
                except OSError:
                    continue
                return time.perf_counter() - began
            sys.exit(f"bench/ipkdb.py: the kernel does not answer after {TRIES} requests")

        ask(0, packet.open_request(int.from_bytes(os.urandom(4), "big") | 1, "bench"))
        trips = range(1, 1 + MIB // packet.DATA_LIMIT)
        return statistics.mean(ask(n, packet.peek(address, packet.DATA_LIMIT)) for n in trips)


def measure(program: Path, figures: dict[str, list[float]]) -> None:
    """Measure one round, and add its results to `figures`.

    The results are the seconds of a round trip, of a step through the translator and of one through QEMU's stub, and
    the bytes that the translator reads per second. Each round starts a new kernel, because a kernel that has booted
    further waits for its clock at every step.
    """
    port, stub, address = ports.free(), ports.free(), address_of(program, "ramdisk")
    with tempfile.TemporaryDirectory(prefix="ri") as name:
        directory = Path(name)
        (directory / "key").write_bytes(KEY)
        extra = ["-netdev", f"user,id=n,hostfwd=udp:127.0.0.1:{port}-:1138", "-device", "ne2k_pci,netdev=n,addr=3"]
        extra += ["-initrd", str(directory / "key"), "-gdb", f"tcp:127.0.0.1:{stub}"]
        dump = f"dump binary memory {directory}/dump {address} {address}"
        with Guest(program, directory, extra=extra) as guest:
            guest.wait_for("My IP address is")
            figures["trip"].append(round_trip(port, address))
            with Translator(port) as translator:
                # `disconnect` keeps the target stopped for the next session.
                little, much = (gdb(translator.remote, f"{dump} + {n}", "disconnect") for n in (1, MIB))
                figures["read"].append(MIB / (much - little))
                few, many = (gdb(translator.remote, f"stepi {n}", "disconnect") for n in (FEW, MANY))
                figures["translator"].append((many - few) / (MANY - FEW))
            few, many = (gdb(f"127.0.0.1:{stub}", f"stepi {n}", "detach") for n in (FEW, MANY))
            figures["stub"].append((many - few) / (MANY - FEW))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    figures: dict[str, list[float]] = {"trip": [], "translator": [], "stub": [], "read": []}
    with tempfile.TemporaryDirectory(prefix="ri") as directory:
        program = build(IPKDB_EXAMPLE, Path(directory) / "ipkdb.bin")
        for _ in range(rounds):
            measure(program, figures)
    trip, translator_step, stub_step, read = (statistics.median(values) for values in figures.values())
    limit = packet.DATA_LIMIT / trip
    print(f"round trip of {packet.DATA_LIMIT} bytes  {trip * 1e6:8.0f} us, so at most {limit / MIB:.2f} MiB/s")
    print(f"stepi, translator         {translator_step * 1e3:8.2f} ms")
    print(f"stepi, QEMU's stub        {stub_step * 1e3:8.2f} ms")
    print(f"ratio                     {translator_step / stub_step:8.2f} (aim: at most 3)")
    print(f"read of 1 MiB             {read / MIB:8.2f} MiB/s")
    print(f"ratio to the limit        {read / limit:8.2f} (aim: at least 0.5)")


if __name__ == "__main__":
    main()
