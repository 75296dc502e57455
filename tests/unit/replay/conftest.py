"""A recording of the demo, and the results of single steps, with which the tests compare reverse execution."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.relayclient import RelayClient
from support.staging import QEMU, command

from rumplab.machine.nics import Nic
from rumplab.machine.qemu_argv import Spec
from rumplab.machine.registry import Machine
from rumplab.recording import ending, making, record
from rumplab.recording.emulator import identify
from rumplab.recording.making import Wanted
from rumplab.recording.record import Recording
from rumplab.recording.store import KEY
from rumplab.replay import laying, relay
from rumplab.replay.faults import Ended
from rumplab.replay.player import Player

SECONDS = 60
# The number of single steps; they take a few seconds.
STEPPED = 6000


@dataclass(frozen=True)
class Truth:
    """The end of the recording by single steps: the registers at each position from `first` on."""

    first: int
    registers: list[tuple[int, ...]]

    @property
    def last(self) -> int:
        return self.first + len(self.registers) - 1

    def pc(self, position: int) -> int:
        return self.registers[position - self.first][-1]

    def before(self, addresses: set[int], end: int) -> int | None:
        """Returns the last position before `end` at which the next instruction is at one of `addresses`."""
        places = range(min(end, self.last + 1) - 1, self.first - 1, -1)
        return next((place for place in places if self.pc(place) in addresses), None)

    def after(self, addresses: set[int], begin: int) -> int | None:
        return next((place for place in range(begin, self.last + 1) if self.pc(place) in addresses), None)


@pytest.fixture(scope="session")
def recording(pcihello: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A recording of the demo, up to its end."""
    directory = tmp_path_factory.mktemp("recording")
    spec = Spec(
        qemu=command(QEMU), accel="tcg", program=str(pcihello), vga=False, nics=(Nic("virtio"),), exit_device=True
    )
    wanted = Wanted(spec, Machine(name="demo", directory="", program=str(pcihello)))
    argv = making.argv(wanted, foreground=False)
    made = making.make(directory, wanted, argv, identify(spec.qemu))
    subprocess.run(argv, cwd=directory, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)
    return replace(ending.ended(made), key=tmp_path_factory.mktemp("key") / KEY)


@pytest.fixture(scope="session")
def indexed(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A copy of the recording, with snapshots."""
    directory = tmp_path_factory.mktemp("indexed") / "recording"
    shutil.copytree(recording.directory, directory)
    made = replace(record.read(directory), key=recording.key)
    index = laying.lay(made, command("qemu-img"))
    assert (len(index.snapshots), index.complete, index.reason) == (6, True, "")
    return made


@pytest.fixture
def short() -> Iterator[Path]:
    """An empty directory with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="rr") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def truth(recording: Recording) -> Truth:
    """The run by single steps, up to its last instruction."""
    assert recording.end is not None
    with tempfile.TemporaryDirectory(prefix="rr") as path, Player(recording, Path(path) / "0") as player:
        first, found = recording.end.instructions - STEPPED, []
        player.go(first)
        while True:
            found.append(registers(player))
            player.resume(b"s")
            try:
                player.stop()
            except Ended:
                break
            assert player.position == first + len(found)
    assert first + len(found) == recording.end.instructions
    return Truth(first, found)


def registers(player: Player) -> tuple[int, ...]:
    raw = bytes.fromhex(player.ask(b"g")[: 17 * 16].decode())
    return tuple(int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8))


@pytest.fixture
def client(recording: Recording, short: Path) -> Iterator[RelayClient]:
    with RelayClient(relay.argv(recording), short) as one:
        assert b"ReverseContinue+" in one.ask(b"qSupported:swbreak+;hwbreak+")
        yield one


@pytest.fixture
def children() -> Callable[[RelayClient], list[int]]:
    """Returns the processes that a relay has started."""

    def found(one: RelayClient) -> list[int]:
        pid = one.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(word) for word in text.split()]

    return found
