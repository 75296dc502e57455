"""Measure what QEMU can record and replay on this host, and how long it takes.

    tools/python bench/replay.py devices [ROUNDS]     records and replays each network card and each disk controller
    tools/python bench/replay.py cost [ROUNDS]        records and replays the demo, by rumplab and by QEMU directly
    tools/python bench/replay.py reverse [COMMANDS]   executes random commands in one session, forwards and backwards,
                                                      with snapshots
    tools/python bench/replay.py linux VMLINUZ INITRD [ROUNDS]   records and replays a guest, which must power itself
        off, by rumplab and by the commands of 'rumplab guest start --record --dry-run'
    tools/python bench/replay.py long [MILLIONS]      goes backwards in a recording of so many million instructions,
                                                      without and with snapshots, from random positions

Needs a provisioned lab (or RUMPLAB_CONFIG) with components qemu, pcihello and rump_stager. `long` builds
tests/fixtures/long, by gcc and make. A card's own boot code uses the card: it asks the user network for an address for
a while. A disk boots the demo. `devices` prints the rows of the table in docs/commands/recording.md. The benchmark
asserts nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from support.demos import ROOT, build
from support.relayclient import RelayClient

from rumplab.errors import RumplabError
from rumplab.host import process
from rumplab.lab import config
from rumplab.machine import nics, qmp
from rumplab.machine.disk_controllers import CDROM, CONTROLLERS, Disk
from rumplab.machine.nics import Nic
from rumplab.machine.qemu_argv import Spec, control_argv, machine_argv
from rumplab.machine.registry import Machine
from rumplab.recording import ending, making, snapshots
from rumplab.recording.emulator import identify
from rumplab.recording.making import Wanted
from rumplab.recording.record import Recording
from rumplab.recording.snapshots import Index
from rumplab.replay import laying, relay, running
from rumplab.replay.faults import Ended
from rumplab.replay.player import Player

ROUNDS = 5
COMMANDS = 200
MILLIONS = 50
# The instructions that the firmware executes first, in millions.
FIRMWARE = 7
# The number of random positions, for each kind of movement.
TRIALS = 12
# The number of last instructions that are stepped through, to compute the expected stops.
STEPPED = 6000
# The time after which a run ends if the guest doesn't end it.
RUN_SECONDS = 6.0
PATIENCE = 120.0
ANSWER_SECONDS = 20
OUTPUT = "console-by-hand"


def record(spec: Spec, directory: Path, seconds: float | None = None) -> Recording:
    """Record a run of `spec` in `directory`, to its end or for `seconds`. RumplabError if QEMU doesn't end then."""
    wanted = Wanted(spec, Machine(name="bench", directory="", program=spec.program))
    argv = making.argv(wanted, foreground=False)
    made = making.make(directory, wanted, argv, identify(spec.qemu))
    control = directory / "qmp.sock"
    with subprocess.Popen(
        [*argv, *control_argv(str(control))],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            process.wait(seconds or PATIENCE)
        except subprocess.TimeoutExpired:
            try:
                qmp.execute(control, "quit", timeout=ANSWER_SECONDS)
                process.wait(ANSWER_SECONDS)
            except (qmp.QmpError, subprocess.TimeoutExpired) as error:
                process.kill()
                raise RumplabError(f"QEMU does not end {ANSWER_SECONDS} s after 'quit' while it records") from error
    return ending.ended(made)


def holds(spec: Spec, seconds: float | None) -> tuple[bool, str]:
    """Whether a recording of `spec` repeats as it was, or what became of it."""
    with tempfile.TemporaryDirectory(prefix="rb") as path:
        try:
            recording = record(spec, Path(path), seconds)
            played = running.play(recording, stall=PATIENCE / 4)
        except RumplabError as error:
            return False, str(error).splitlines()[0]
        wrong = running.difference(recording.console.read_bytes(), played.console, whole=True)
        return not wrong, wrong


def row(name: str, spec: Spec, rounds: int, seconds: float | None = None) -> None:
    results = [holds(spec, seconds) for _ in range(rounds)]
    why = next((text for good, text in results if not good), "")
    print(f"| {name} | {sum(good for good, _ in results)} of {rounds} | {why} |", flush=True)


def image_of(program: str, directory: Path) -> str:
    path = directory / "demo.img"
    subprocess.run([sys.executable, "-m", "rumplab", "stage", program, "-o", str(path)], check=True, timeout=PATIENCE)
    return str(path)


def devices(spec: Spec, rounds: int) -> None:
    print(f"{identify(spec.qemu).version}\n\n| device | holds | else |\n|---|---|---|")
    for model in nics.MODELS:
        used = replace(spec, program=None, nics=(Nic(model),))
        row(f"card {model}, its boot code", used, rounds, RUN_SECONDS)
        row(f"card {model}, the demo", replace(spec, nics=(Nic(model),)), rounds)
    with tempfile.TemporaryDirectory(prefix="rb") as path:
        image = image_of(str(spec.program), Path(path))
        for name in CONTROLLERS:
            booted = replace(spec, program=None, image=image, disk=name)
            row(f"disk {name}, booted", booted, rounds)
            row(f"disk {name}, booted, --snapshot", replace(booted, snapshot=True), rounds)
        row(f"disk {CDROM}, beside", replace(spec, drives=(Disk(image, "raw", CDROM),)), rounds)
    row("VGA card", replace(spec, vga=True), rounds)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run_plain(argv: list[str], directory: str) -> None:
    subprocess.run(argv, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)


def cost(spec: Spec, rounds: int) -> None:
    program = str(spec.program)
    tool = [sys.executable, "-m", "rumplab"]
    serial = ["-serial", "file:console2"]
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="rb") as path:
        plain = machine_argv(spec)
        logged = machine_argv(replace(spec, icount="shift=auto,rr=record,rrfile=log2"))
        again = machine_argv(replace(spec, icount="shift=auto,rr=replay,rrfile=log2"))
        for number in range(rounds):
            name = f"{path}/{number}"
            ways = {
                "run": [*tool, "run", program, "--exit-device", "--nic", "virtio"],
                "run --record": [*tool, "run", program, "--exit-device", "--nic", "virtio", f"--record={name}"],
                "replay": [*tool, "replay", name],
                "QEMU, plain": [*plain, *serial],
                "QEMU, rr=record": [*logged, *serial],
                "QEMU, rr=replay": [*again, *serial],
            }
            for label, argv in ways.items():
                times.setdefault(label, []).append(seconds(partial(run_plain, argv, path)))
        run_plain([*tool, "recording", "pack", f"{path}/0", "-o", f"{path}/p.tar.zst"], path)
        log, whole = Path(path, "0", "log").stat().st_size, Path(path, "p.tar.zst").stat().st_size
    for label, values in times.items():
        print(f"{label:16} {statistics.median(values):.3f} s")
    median = {label: statistics.median(values) for label, values in times.items()}
    print(f"recording        {median['run --record'] - median['run']:+.3f} s on top of run")
    print(f"QEMU's recording {median['QEMU, rr=record'] - median['QEMU, plain']:+.3f} s on top of QEMU")
    print(f"log              {log} bytes; the whole recording, packed: {whole}")


def reverse(spec: Spec, count: int) -> None:
    """Random commands, with snapshots, each compared with where single steps say that it must end."""
    with tempfile.TemporaryDirectory(prefix="rb") as path:
        recording = record(spec, Path(path))
        lay(recording)
        total = running.end_of(recording).instructions
        first, last = total - STEPPED, total - 1
        pcs = trace(recording, first)
        times: list[float] = []
        wrong = 0
        chance = random.Random(1)
        with RelayClient(relay.argv(recording)) as client:
            client.ask(b"qSupported:swbreak+;hwbreak+")
            position, points = first + STEPPED // 2, set[int]()
            client.goto(position)
            for _ in range(count):
                if chance.random() < 0.3:
                    for address in points:
                        client.ask(b"z1,%x,1" % address)
                    points = {chance.choice(pcs) for _ in range(chance.randrange(4))}
                    for address in points:
                        client.ask(b"Z1,%x,1" % address)
                command = chance.choice([b"bs", b"bc", b"bc", b"vCont;s:1", b"vCont;c"])
                places = {
                    b"bs": position - 1,
                    b"vCont;s:1": min(position + 1, last),
                    b"vCont;c": next((n for n in range(position, last) if pcs[n - first] in points), last),
                    b"bc": next((n for n in range(position - 1, first - 1, -1) if pcs[n - first] in points), -1),
                }
                times.append(seconds(partial(client.ask, command, PATIENCE)))
                now = client.position
                wrong += now != places[command] and (places[command] >= first or now >= first)
                position = now
                if position < first or position == last:
                    position = chance.randrange(first, last)
                    client.goto(position)
    print(f"{count - wrong} of {count} ended where a forward run says; load {os.getloadavg()[0]:.1f}")
    print(f"median {statistics.median(times):.2f} s, worst {max(times):.2f} s")


def long(spec: Spec, millions: int) -> None:
    """The same movements from the same random positions, without and with snapshots."""
    with tempfile.TemporaryDirectory(prefix="rb") as path:
        program = build(
            ROOT / "tests/fixtures/long", Path(path, "long.bin"), f"CC=gcc -DMILLIONS={millions - FIRMWARE}"
        )
        directory = Path(path, "recording")
        directory.mkdir()
        recording = record(replace(spec, program=str(program)), directory)
        total = running.end_of(recording).instructions
        known = symbols(program)
        points = {
            "step": b"",
            "breakpoint, hit each 1000": b"Z1,%x,1" % known["often"],
            "breakpoint, each million": b"Z1,%x,1" % known["tick"],
            "breakpoint, each 10 million": b"Z1,%x,1" % known["seldom"],
            "breakpoint, once, slow page": b"Z1,%x,1" % known["once"],
            "watchpoint, each 10 million": b"Z2,%x,8" % known["written"],
        }
        chance = random.Random(1)
        places = [chance.randrange(total // 2, total) for _ in range(TRIALS)]
        found = {name: movements(recording, point, places) for name, point in points.items()}
        began = time.perf_counter()
        index = lay(recording)
        size = snapshots.size(directory) / (1 << 20)
        print(f"{total} instructions; {len(index.snapshots)} snapshots, {size:.0f} MiB, in", end=" ")
        print(f"{time.perf_counter() - began:.1f} s; load {os.getloadavg()[0]:.1f}\n")
        print("| movement | without | worst | with snapshots | worst | same place |\n|---|---|---|---|---|---|")
        for name, point in points.items():
            places_before, before = found[name]
            places_after, after = movements(recording, point, places)
            same = sum(one == other for one, other in zip(places_before, places_after, strict=True))
            print(f"| {name} | {spread(before)} | {spread(after)} | {same} of {len(places)} |", flush=True)


def lay(recording: Recording) -> Index:
    return laying.lay(recording, config.load().component("qemu").path("qemu-img"))


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s | {max(times):.2f} s"


def movements(recording: Recording, point: bytes, places: list[int]) -> tuple[list[int], list[float]]:
    """Go backwards from each of `places`, and return where each movement ends and its time. Each is the first movement
    of a session, which has no stops in its memory."""
    ends, times = [], []
    for place in places:
        with RelayClient(relay.argv(recording)) as client:
            client.ask(b"qSupported:swbreak+;hwbreak+")
            client.goto(place)
            if point:
                client.ask(point)
            times.append(seconds(partial(client.ask, b"bc" if point else b"bs", PATIENCE)))
            ends.append(client.position)
    return ends, times


def symbols(program: Path) -> dict[str, int]:
    lines = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout.splitlines()
    return {words[-1]: int(words[0], 16) for words in map(str.split, lines)}


def trace(recording: Recording, first: int) -> list[int]:
    """Return the address of each instruction from `first` on, by single steps."""
    found = []
    with tempfile.TemporaryDirectory(prefix="rb") as path, Player(recording, Path(path) / "0") as player:
        player.go(first)
        while True:
            found.append(player.pc)
            player.resume(b"s")
            try:
                player.stop()
            except Ended:
                return found


def until_gone(pid: int) -> None:
    # A zombie has ended; the process that must wait for it may be slow.
    while process.started(pid) is not None:
        time.sleep(0.02)


def record_guest(name: str, directory: str, environment: dict[str, str]) -> None:
    tool = [sys.executable, "-m", "rumplab"]
    run = partial(subprocess.run, env=environment, check=True, timeout=PATIENCE, capture_output=True)
    run([*tool, "guest", "start", name, f"--record={directory}"])
    (machine,) = json.loads(run([*tool, "ps", "--json"]).stdout)
    until_gone(machine["pid"])


def by_hand(command: str, directory: str) -> None:
    """Run a printed QEMU command for at most PATIENCE seconds; its console is the file OUTPUT."""
    with Path(directory, OUTPUT).open("wb") as output, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            f"exec {command}",
            shell=True,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )


def checked(argv: list[str], environment: dict[str, str]) -> None:
    """Run a command that must succeed; print its message if it doesn't."""
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=10 * PATIENCE, check=False)
    if done.returncode:
        print(f"{' '.join(argv[2:])} failed: {done.stderr.strip()}", flush=True)


def linux(kernel: str, initrd: str, rounds: int) -> None:
    tool = [sys.executable, "-m", "rumplab"]
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="rb") as path:
        environment = {**os.environ, "XDG_STATE_HOME": path, "XDG_RUNTIME_DIR": path}
        run = partial(subprocess.run, env=environment, check=True, capture_output=True, text=True)
        run([*tool, "guest", "create", "bench", "--bzimage", kernel, "--initrd", initrd])
        same = 0
        for number in range(rounds):
            ours, bare = f"{path}/ours{number}", f"{path}/bare{number}"
            *prepare, record_line = run(
                [*tool, "guest", "start", "bench", f"--record={bare}", "--dry-run"]
            ).stdout.splitlines()
            run(["/bin/sh", "-ec", "\n".join(prepare)])
            play_line = record_line.replace("rr=record", "rr=replay")
            ways: dict[str, Callable[[], object]] = {
                "QEMU, rr=record": partial(by_hand, record_line, bare),
                "guest start --record": partial(record_guest, "bench", ours, environment),
                "QEMU, rr=replay": partial(by_hand, play_line, bare),
                "replay --check": partial(checked, [*tool, "replay", ours, "--check"], environment),
            }
            for label, work in ways.items():
                times.setdefault(label, []).append(seconds(work))
                print(f"{label:20} {times[label][-1]:.2f} s", flush=True)
            same += Path(bare, OUTPUT).read_bytes() == Path(bare, "console").read_bytes()
        run([*tool, "recording", "pack", f"{path}/ours0", "-o", f"{path}/p.tar.zst"])
        packed = subprocess.run(["zstd", "-9", "-q", "-c", f"{path}/ours0/log"], capture_output=True, check=True).stdout
        sizes = [Path(path, place, "log").stat().st_size for place in ("bare0", "ours0")]
        print(json.loads(Path(path, "ours0", "recording.json").read_text())["end"]["instructions"], "instructions")
        print(f"the whole recording, packed: {Path(path, 'p.tar.zst').stat().st_size} bytes")
    for label, values in times.items():
        print(f"{label:20} {statistics.median(values):.2f} s  ({', '.join(f'{value:.2f}' for value in values)})")
    median = {label: statistics.median(values) for label, values in times.items()}
    print(f"recording  {median['guest start --record'] / median['QEMU, rr=record']:.3f} x by hand (aim: 1.05)")
    print(f"replay     {median['replay --check'] / median['QEMU, rr=replay']:.3f} x by hand (aim: 1.05)")
    print(f"log        {sizes[0]} bytes by hand, {sizes[1]} by rumplab, packed {len(packed)} (aim: half)")
    print(
        f"by hand, {same} of {rounds} consoles the same; by rumplab, all but the failed; load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    modes = {
        "devices": (devices, ROUNDS),
        "cost": (cost, ROUNDS),
        "reverse": (reverse, COMMANDS),
        "long": (long, MILLIONS),
    }
    words = sys.argv[1:]
    if words[:1] == ["linux"] and len(words) in (3, 4):
        linux(words[1], words[2], int(words[3]) if len(words) > 3 else ROUNDS)
        return
    if not words or words[0] not in modes:
        sys.exit(__doc__)
    work, number = modes[words[0]]
    lab = config.load()
    spec = Spec(
        qemu=lab.component("qemu").path("qemu-system-x86_64"),
        accel="tcg",
        program=lab.component("pcihello").path("program"),
        vga=False,
        nics=(Nic("virtio"),),
        exit_device=True,
    )
    work(spec, int(words[1]) if len(words) > 1 else number)


if __name__ == "__main__":
    main()
