"""If the launcher is killed at any moment, its machine has a record or doesn't run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.labfixture import LabPrefix
from support.running import until

from rumplab.lab.config import load
from rumplab.machine.registry import Machines, open_machines

KILLS = 500 if os.environ.get("RUMPLAB_TEST_ALL") else 40
SEED = 11
LAUNCH = """
import sys
from rumplab.machine import launch
from rumplab.lab.config import load
from rumplab.machine.registry import Machine, open_machines
machines = open_machines(load())
machine = machines.claim(Machine(name="m", directory=""), numbered=True)
launch.detached(machines, machine, sys.argv[1:])
"""


def running_emulators(mark: str) -> set[int]:
    """Return the pids of the running emulators with `mark` in their command line, not of launchers before exec."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"tail") and mark.encode() in words:
                found.add(int(entry.name))
    return found


@pytest.fixture
def emulator(tmp_path: Path) -> tuple[Path, Path]:
    """A program in QEMU's place that never ends, and its argument, which no other process has."""
    program, mark = tmp_path / "emulator", tmp_path / "mark"
    mark.touch()
    program.write_text('#!/bin/sh\nexec tail -f "$1"\n', encoding="utf-8")
    program.chmod(0o755)
    return program, mark


def test_no_machine_is_lost_by_a_kill(empty_lab: LabPrefix, emulator: tuple[Path, Path]) -> None:
    chance = random.Random(SEED)
    store: Machines = open_machines(load())
    recorded, latest = 0, 0.25
    argv = [sys.executable, "-c", LAUNCH, *map(str, emulator)]
    for _ in range(KILLS):
        launcher = subprocess.Popen(argv, env=empty_lab.environment, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.02, latest))
        launcher.send_signal(signal.SIGKILL)
        launcher.wait(10)
        # A child that still waits on the start pipe reads its end, and exits.
        time.sleep(0.05)
        alive = running_emulators(str(emulator[1]))
        known = {machine.pid for machine in store.all()}
        assert alive <= known, f"{alive - known} run and have no record"
        recorded += len(alive)
        # How long a start takes depends on the machine's load: keep the kills around it.
        latest *= 0.9 if alive else 1.1
        for machine in store.all():
            os.kill(machine.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while store.all() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert running_emulators(str(emulator[1])) == set()
    # The kills hit different moments of the start, not all before it or all after it.
    assert 0 < recorded < KILLS


def test_a_record_that_cannot_be_written_leaves_no_process(
    empty_lab: LabPrefix, emulator: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rumplab.machine import launch
    from rumplab.machine.registry import Machine

    store = open_machines(load())
    machine = store.claim(Machine(name="m", directory=""), numbered=False)

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "update", full)
    with pytest.raises(OSError, match="No space"):
        launch.detached(store, machine, list(map(str, emulator)))
    assert running_emulators(str(emulator[1])) == set()
    assert store.all() == []


FOREGROUND = """
import sys
from rumplab.lab.config import load
from rumplab.machine import launch
from rumplab.machine.registry import Machine, open_machines
machines = open_machines(load())
machine = machines.claim(Machine(name="m", directory=""), numbered=True)
sys.exit(launch.foreground(machines, machine, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_emulator_that_loses_a_signal_gets_it_again(
    empty_lab: LabPrefix, tmp_path: Path, number: signal.Signals
) -> None:
    program, ready = tmp_path / "emulator", tmp_path / "ready"
    lost = "trap 'trap - INT TERM HUP' INT TERM HUP"
    program.write_text(f"#!/bin/sh\n{lost}\n: >{ready}\nwhile :; do sleep 0.05; done\n", encoding="utf-8")
    program.chmod(0o755)
    words = [sys.executable, "-c", FOREGROUND, str(program)]
    # A shell can't trap a signal that is ignored when it starts, as under nohup.
    with subprocess.Popen(
        words,
        env=empty_lab.environment,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as child:
        try:
            until(ready.exists)
            child.send_signal(number)
            assert child.wait(20) == 128 + number
        finally:
            child.kill()
    assert open_machines(load()).all() == []
