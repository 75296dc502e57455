"""What GDB costs through `rumplab ipkdb`: a step against QEMU's own stub, and reading against the line's own limit.

    tools/python bench/ipkdb.py [ROUNDS]

Needs gcc, make, QEMU and GDB on the path. Builds examples/ipkdb and runs it without acceleration, with QEMU's stub on
one port and IPKDB on another. Both sides take turns. A step's time is the difference between many and few of them, so
that GDB's own start doesn't count; so is that of reading 1 MiB. The line's own limit is a client that does nothing but
ask for the same MiB and wait. Prints medians and ratios; asserts nothing.
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
PATIENCE = 600
TRIES = 100


def address_of(program: Path, symbol: str) -> int:
    names = subprocess.run(["nm", program], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    found = re.search(rf"^([0-9a-f]+) \w {symbol}$", names, re.MULTILINE)
    assert found
    return int(found[1], 16)


def gdb(remote: str, *commands: str) -> float:
    """Seconds that a session with these commands takes."""
    first = ("set confirm off", "set pagination off", f"target remote {remote}")
    argv = ["gdb", "-nx", "-batch", *(part for one in (*first, *commands) for part in ("-ex", one))]
    began = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode or "Remote connection closed" in done.stdout + done.stderr:
        sys.exit(f"{' '.join(argv)}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


class Bridge:
    """`rumplab ipkdb`, for as many GDBs in a row as there come."""

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
            sys.exit("rumplab ipkdb did not start")
        self.remote = said[1]

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *_: object) -> None:
        # Not SIGTERM, which would let the target run: the next round wants it stopped.
        self.process.kill()
        self.process.wait(10)


def round_trip(port: int, address: int) -> float:
    """Seconds between a read of the largest size and its reply, on average over 1 MiB, of a client that does nothing
    else."""
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
            sys.exit("the kernel doesn't answer")

        ask(0, packet.open_request(int.from_bytes(os.urandom(4), "big") | 1, "bench"))
        trips = range(1, 1 + MIB // packet.DATA_LIMIT)
        return statistics.mean(ask(n, packet.peek(address, packet.DATA_LIMIT)) for n in trips)


def measure(program: Path, figures: dict[str, list[float]]) -> None:
    """Adds one round's seconds a round trip, a step by the bridge and by QEMU's stub, and bytes a second that the
    bridge reads. Each round has a kernel of its own: one that has come far waits for its clock, step by step."""
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
            with Bridge(port) as bridge:
                # Leaving by disconnect keeps the target stopped for the next session.
                little, much = (gdb(bridge.remote, f"{dump} + {n}", "disconnect") for n in (1, MIB))
                figures["read"].append(MIB / (much - little))
                few, many = (gdb(bridge.remote, f"stepi {n}", "disconnect") for n in (FEW, MANY))
                figures["bridge"].append((many - few) / (MANY - FEW))
            few, many = (gdb(f"127.0.0.1:{stub}", f"stepi {n}", "detach") for n in (FEW, MANY))
            figures["stub"].append((many - few) / (MANY - FEW))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    figures: dict[str, list[float]] = {"trip": [], "bridge": [], "stub": [], "read": []}
    with tempfile.TemporaryDirectory(prefix="ri") as directory:
        program = build(IPKDB_EXAMPLE, Path(directory) / "ipkdb.bin")
        for _ in range(rounds):
            measure(program, figures)
    trip, bridge_step, stub_step, read = (statistics.median(values) for values in figures.values())
    limit = packet.DATA_LIMIT / trip
    print(f"round trip of {packet.DATA_LIMIT} bytes  {trip * 1e6:8.0f} us, so at most {limit / MIB:.2f} MiB/s")
    print(f"stepi, bridge             {bridge_step * 1e3:8.2f} ms")
    print(f"stepi, QEMU's stub        {stub_step * 1e3:8.2f} ms")
    print(f"ratio                     {bridge_step / stub_step:8.2f} (aim: at most 3)")
    print(f"read of 1 MiB             {read / MIB:8.2f} MiB/s")
    print(f"ratio to the limit        {read / limit:8.2f} (aim: at least 0.5)")


if __name__ == "__main__":
    main()
