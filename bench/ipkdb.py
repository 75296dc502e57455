#!/usr/bin/env python3
"""What GDB costs through `rumplab ipkdb`: a step against QEMU's own stub, and reading against the line's own limit.

    bench/ipkdb.py --target 127.0.0.1:1138 --key-file KEY --stub PORT --address ADDRESS [--gdb GDB] [--rounds N]

The machine runs and waits for a debugger, for instance after
`rumplab run PROGRAM --nic ne2k_pci --forward udp:1138:1138 --detach`; --stub is its QEMU's port (`rumplab ps`), and
at ADDRESS there is a MiB of memory that may be read. Both sides take turns. A step's time is the difference between
many and few of them, so that GDB's own start doesn't count. Prints medians and ratios; asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from rumplab.kdb import key, packet, reach  # noqa: E402
from rumplab.kdb.packet import Packet  # noqa: E402

FEW, MANY = 10, 110
MIB = 1 << 20
PATIENCE = 600
TRIES = 100


def gdb(args: argparse.Namespace, remote: str, *commands: str) -> float:
    """Seconds that a session with these commands takes."""
    first = ("set confirm off", "set pagination off", f"target remote {remote}")
    argv = [args.gdb, "-nx", "-batch", *(part for one in (*first, *commands) for part in ("-ex", one))]
    began = time.perf_counter()
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if done.returncode or "Remote connection closed" in done.stdout + done.stderr:
        sys.exit(f"{' '.join(argv)}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


class Bridge:
    """`rumplab ipkdb`, for as many GDBs in a row as there come."""

    def __init__(self, args: argparse.Namespace) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        argv = [sys.executable, "-m", "rumplab", "ipkdb", "--target", args.target]
        argv += ["--key-file", str(args.key_file)] if args.key_file else []
        self.process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if ":" not in line:
            sys.exit("rumplab ipkdb did not start")
        self.remote = f"127.0.0.1:{int(line.rpartition(':')[2])}"

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *_: object) -> None:
        # Not SIGTERM, which would let the target run: the next round wants it stopped.
        self.process.kill()
        self.process.wait(10)


def round_trip(args: argparse.Namespace, address: int) -> float:
    """Seconds between a read of the largest size and its reply, of a client that does nothing else."""
    secret = key.load(args.key_file)
    place = reach.parse(args.target)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.settimeout(1)
        wire.connect((str(place[0]), place[1]))

        def ask(seq: int, data: bytes) -> float:
            for _ in range(TRIES):
                began = time.perf_counter()
                wire.send(packet.encode(Packet(seq, data), secret))
                try:
                    while packet.decode(wire.recv(packet.DATAGRAM_LIMIT), secret).seq != seq:
                        pass
                except OSError:
                    continue
                return time.perf_counter() - began
            sys.exit(f"{args.target} doesn't answer")

        ask(0, packet.open_request(int.from_bytes(os.urandom(4), "big") | 1, "bench"))
        return statistics.median(ask(n, packet.peek(address, packet.DATA_LIMIT)) for n in range(1, 400))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--stub", type=int, required=True)
    parser.add_argument("--address", type=lambda text: int(text, 0), required=True)
    parser.add_argument("--gdb", default="gdb")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    args = parser.parse_args()
    figures: dict[str, list[float]] = {"trip": [], "bridge": [], "stub": [], "read": []}
    with tempfile.TemporaryDirectory() as directory:
        dump = f"dump binary memory {directory}/dump {args.address} {args.address}"
        for _ in range(args.rounds):
            figures["trip"].append(round_trip(args, args.address))
            with Bridge(args) as bridge:
                # Leaving by disconnect keeps the target stopped for the next session.
                few, many = (gdb(args, bridge.remote, f"stepi {n}", "disconnect") for n in (FEW, MANY))
                figures["bridge"].append((many - few) / (MANY - FEW))
                little, much = (gdb(args, bridge.remote, f"{dump} + {n}", "disconnect") for n in (1, MIB))
                figures["read"].append(MIB / (much - little))
            few, many = (gdb(args, f"127.0.0.1:{args.stub}", f"stepi {n}", "detach") for n in (FEW, MANY))
            figures["stub"].append((many - few) / (MANY - FEW))
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
