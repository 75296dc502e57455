"""Kinds of run that disturb `rumplab stage` and `rumplab run`."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from support.demos import EXAMPLE, build
from support.labfixture import SECONDS, LabPrefix, make_lab

from chaos.row import (
    CORRUPT,
    HAND_WORK,
    LEAKED,
    LEFT,
    Fault,
    Row,
    Unsupported,
    eventually,
    kill_all,
    none_left,
    processes_of,
    shown,
)
from rumplab.host.files import sha256

GRUB = Path("/usr/lib/grub/i386-pc")
STAGER = ("sfdisk", "mke2fs", "debugfs", "grub-mkimage")
QEMU = "qemu-system-x86_64"
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
ARGUMENTS = ["", "one", "two words", "three of them"]


def program(name: str) -> str:
    """Return the path of a program of the host. Raise Unsupported if it isn't installed."""
    path = shutil.which(name, path=PATH)
    if path is None:
        raise Unsupported(f"{name} isn't installed")
    return path


class Tool(Row):
    """The base of the kinds that run the tool on the demo program, in a lab of the host's programs."""

    def prepare(self) -> None:
        if not (GRUB / "boot.img").is_file():
            raise Unsupported(f"GRUB's modules aren't in {GRUB}")
        stager = {"grub-modules": str(GRUB), **{name: program(name) for name in STAGER}}
        qemu = self.emulator()
        for name in ("gcc", "make"):
            program(name)
        # The path of a socket is limited to about 100 bytes, so that this directory has a short name. Only the
        # tool's files are in it.
        self.runtime = Path(tempfile.mkdtemp(prefix="rc"))
        self.lab: LabPrefix = make_lab(self.directory / "lab", self.runtime)
        self.lab.component("rump_stager", stager)
        if qemu:
            self.lab.component("qemu", {QEMU: qemu})
        self.demo = build(EXAMPLE, self.directory / "demo.bin")
        self.calibrate()

    def emulator(self) -> str:
        return ""

    def calibrate(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        if hasattr(self, "runtime"):
            kill_all(self.runtime)
            shutil.rmtree(self.runtime)

    def start(self, place: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start `rumplab ARGUMENTS` in its own session, with its temporary files in `place`."""
        temporary = place / "tmp"
        temporary.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "rumplab", *map(str, arguments)],
            env={**self.lab.environment, "TMPDIR": str(temporary)},
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def must(self, place: Path, *arguments: str | Path) -> None:
        """Run `rumplab ARGUMENTS`. Raise Fault(HAND_WORK) if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "rumplab", *map(str, arguments)],
            env={**self.lab.environment, "TMPDIR": str(place / "tmp")},
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise Fault(HAND_WORK, f"{' '.join(map(str, arguments))}: {done.stdout.decode(errors='replace')}")


class Stage(Tool):
    name, what = "stage", "`rumplab stage`, one or several to one image, by SIGKILL"

    def calibrate(self) -> None:
        place = self.directory / "usual"
        (place / "tmp").mkdir(parents=True)
        self.hashes = {}
        for text in ARGUMENTS:
            began = time.monotonic()
            self.must(place, "stage", self.demo, "-o", place / "x.img", "--force", "--args", text or " ")
            self.usual = time.monotonic() - began
            self.hashes[text or " "] = sha256(place / "x.img")

    def run(self, chance: random.Random, place: Path) -> None:
        image = place / "x.img"
        if chance.random() < 0.5:
            self.must_stage(place, image, chance)
        several = [self.start(place, *self.words(image, chance, force=True)) for _ in range(chance.choice([1, 1, 3]))]
        time.sleep(self.moment(chance))
        for process in several[: chance.randint(1, len(several))]:
            self.kill(process, whole=chance.random() < 0.5)
        for process in several:
            process.wait(SECONDS)
        self.check(image)
        self.must_stage(place, image, chance)
        self.check(image)
        left = [str(path.relative_to(place)) for path in place.rglob("*") if path not in (image, described(image))]
        if left != ["tmp"]:
            raise Fault(LEFT, f"the next stage leaves {left}")
        none_left(place)

    def words(self, image: Path, chance: random.Random, force: bool) -> list[str | Path]:
        text = chance.choice(ARGUMENTS) or " "
        return ["stage", self.demo, "-o", image, "--args", text, *(["--force"] if force else [])]

    def must_stage(self, place: Path, image: Path, chance: random.Random) -> None:
        (place / "tmp").mkdir(exist_ok=True)
        self.must(place, *self.words(image, chance, force=True))

    def check(self, image: Path) -> None:
        """Raise Fault(CORRUPT) if the image differs from every requested one, or from its description."""
        if not image.exists():
            return
        if sha256(image) not in self.hashes.values():
            raise Fault(CORRUPT, f"{image} differs from every image that was requested")
        # A stage that was killed between its two renames leaves an image without description, which is allowed.
        if described(image).exists():
            said = json.loads(described(image).read_text())
            if self.hashes[said["args"]] != sha256(image):
                raise Fault(CORRUPT, f"{image} differs from its description: {said}")


def described(image: Path) -> Path:
    return image.with_name(image.name + ".rumplab.json")


class Run(Tool):
    name, what = "run", "`rumplab run`, or the machine, by SIGKILL, and damage to the machine's record"

    def emulator(self) -> str:
        return program(QEMU)

    def calibrate(self) -> None:
        place = self.directory / "usual"
        (place / "tmp").mkdir(parents=True)
        self.image = self.directory / "demo.img"
        self.must(place, "stage", self.demo, "-o", self.image)
        for _ in range(2):
            began = time.monotonic()
            self.must(place, *self.words())
            self.usual = time.monotonic() - began
            self.must(place, "stop", "--all")

    def words(self) -> list[str | Path]:
        return ["run", self.image, "--detach", "--wait", "--snapshot", "--accel", "tcg"]

    def machines(self) -> set[int]:
        """Return the QEMU processes of this lab: each has its socket in the directory `runtime`."""
        return {pid for pid in processes_of(self.runtime) if b"qemu" in argv0(pid)}

    def recorded(self) -> dict[int, dict[str, Any]]:
        """Return what `rumplab ps` lists, by process id."""
        said = self.lab.tool("ps", "--json")
        if said.returncode:
            raise Fault(HAND_WORK, f"ps says: {said.stderr}")
        return {one["pid"]: one for one in json.loads(said.stdout)}

    def run(self, chance: random.Random, place: Path) -> None:
        started = [self.start(place, *self.words()) for _ in range(chance.choice([1, 1, 2]))]
        time.sleep(self.moment(chance))
        for process in started:
            self.kill(process, whole=chance.random() < 0.3)
        known = self.recorded()
        # A process that waits for its start signal ends when the launcher has died.
        if not eventually(lambda: self.machines() <= set(self.recorded()), 2.0):
            raise Fault(LEAKED, f"machines run without a record: {shown(self.machines() - set(known))}")
        known = self.recorded()
        for pid, machine in known.items():
            self.hurt(chance, pid, Path(machine["directory"]))
        lost = self.machines() - set(self.recorded())
        if lost:
            raise Fault(LEAKED, f"machines are not listed after damage to a record: {shown(lost)}")
        self.must(place, "stop", "--all")
        if not eventually(lambda: not self.machines()):
            raise Fault(LEAKED, f"machines still run after `stop --all`: {shown(self.machines())}")
        none_left(place)

    def hurt(self, chance: random.Random, pid: int, directory: Path) -> None:
        """Kill a machine, damage or remove its record, or do nothing."""
        what = chance.choice(["kill", "damage", "lose", "nothing", "nothing"])
        if what == "kill":
            os.kill(pid, 9)
            self.kills += 1
            if not eventually(lambda: pid not in self.recorded()):
                raise Fault(HAND_WORK, f"the killed machine {pid} is still listed")
        elif what == "damage":
            (directory / "machine.json").write_bytes(chance.choice([b"", b"{", b"[]", b"\xff", b'{"pid": "x"}']))
        elif what == "lose":
            (directory / "machine.json").unlink()


def argv0(pid: int) -> bytes:
    try:
        return os.path.basename(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0])
    except OSError:
        return b""


def rows() -> list[type[Tool]]:
    return [Stage, Run]
