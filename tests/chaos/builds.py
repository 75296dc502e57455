"""Kinds of run that disturb role artifact while it works."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

from support import loopdisk

from chaos.building import LABELS, USER, Module, Upstream, Wanted, owned_directory
from chaos.row import CORRUPT, HAND_WORK, Fault, Row, Unsupported, kill_all, processes_of
from plugins.module_utils.artifact import durable

DAY = 86_400


class Builds(Row):
    """The base of the kinds that build versions of an artefact, each run in its own prefix."""

    def prepare(self) -> None:
        self.upstream = Upstream(self.directory / "upstream")
        self.usual = Module(owned_directory(self.directory / "usual"), self.upstream).usual()

    def end(self) -> None:
        self.upstream.close()

    def disturb(self, chance: random.Random, module: Module, wanted: Wanted) -> None:
        """Start a run and kill at a random moment its first process, its process group or any process of the prefix."""
        process = module.start(wanted)
        time.sleep(self.moment(chance))
        how = chance.choice(["first", "all", "any"])
        if how == "any":
            victim = chance.choice([*processes_of(module.prefix), 0])
            if victim and victim != process.pid:
                self.kill_any(victim)
                module.answer(process)
                return
            how = "first"
        if self.kill(process, whole=how == "all"):
            module.reap_killed(process)
        else:
            module.answer(process)

    def kill_any(self, pid: int) -> None:
        try:
            os.kill(pid, 9)
            self.kills += 1
        except ProcessLookupError:
            pass


class Kill(Builds):
    name, what = "kill", "a run of module artifact, or a process of its build, by SIGKILL"

    def run(self, chance: random.Random, place: Path) -> None:
        module = Module(owned_directory(place / "lab"), self.upstream)
        before = Wanted(chance.choice(LABELS)) if chance.random() < 0.5 else None
        if before:
            module.repair(before)
        wanted = Wanted(chance.choice(LABELS))
        for _ in range(chance.choice([1, 1, 2])):
            self.disturb(chance, module, wanted)
            trees = module.trusted()
            if before and before.stamp not in trees:
                raise Fault(CORRUPT, f"version {before.label}, which was in use, is gone")
        module.repair(wanted)
        if module.provide(wanted)["changed"]:
            raise Fault(HAND_WORK, "a second run changes something")


class PowerCut(Builds):
    name, what = "power-cut", "the shutdown ioctl on an ext4 of its own while a tree is made"

    def prepare(self) -> None:
        if os.geteuid() != 0:
            raise Unsupported("only root can mount")
        if shutil.which("mkfs.ext4") is None:
            raise Unsupported("mkfs.ext4 isn't installed")
        self.image, self.disk = self.directory / "disk", self.directory / "mounted"
        self.disk.mkdir()
        loopdisk.make(self.image)
        try:
            loopdisk.mount(self.image, self.disk)
        except subprocess.CalledProcessError as error:
            raise Unsupported(f"no loop device: {error.stderr.decode(errors='replace').strip()}") from error
        super().prepare()

    def end(self) -> None:
        if os.path.ismount(self.disk):
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False, timeout=60)
        super().end()

    def run(self, chance: random.Random, place: Path) -> None:
        loopdisk.unmount(self.image, self.disk)
        loopdisk.make(self.image)
        loopdisk.mount(self.image, self.disk)
        module = Module(owned_directory(self.disk / "lab"), self.upstream)
        # The test is about the run's own data. Without this, the power cut could undo the prefix's owner too.
        durable.sync(str(module.prefix))
        before = Wanted(chance.choice(LABELS)) if chance.random() < 0.5 else None
        if before:
            module.repair(before)
        wanted = Wanted(chance.choice(LABELS))
        process = module.start(wanted)
        time.sleep(self.moment(chance))
        if chance.random() < 0.2:
            # A tree whose installation has ended must survive the power cut.
            process.wait(60)
        ended = process.poll() == 0
        loopdisk.cut_power(self.disk)
        self.kill(process, whole=True)
        kill_all(module.prefix)
        module.reap_killed(process)
        loopdisk.unmount(self.image, self.disk)
        loopdisk.mount(self.image, self.disk)
        trees = module.trusted()
        link = module.prefix / "hello"
        if link.is_symlink() and os.path.realpath(link) not in map(os.path.realpath, trees.values()):
            raise Fault(CORRUPT, f"{link} points to a tree that doesn't count as complete")
        for one in filter(None, (before, wanted if ended else None)):
            if one.stamp not in trees:
                raise Fault(CORRUPT, f"version {one.label}, which was installed before the power cut, is gone")
        if module.repair(wanted)["changed"] and ended:
            raise Fault(
                HAND_WORK, "the installation had ended before the power cut, but the next run changed something"
            )


class Clock(Builds):
    name, what = "clock", "a clock that jumps up to 400 days either way between runs, and a kill now and then"

    def run(self, chance: random.Random, place: Path) -> None:
        module = Module(owned_directory(place / "lab"), self.upstream)
        order: list[Wanted] = []
        for _ in range(4):
            wanted = Wanted(chance.choice([label for label in LABELS if not order or label != order[-1].label]))
            shift = chance.uniform(-400, 400) * DAY
            if chance.random() < 0.2:
                self.disturb(chance, module, wanted)
                shift = 0.0
            answer = module.provide(wanted, shift)
            if answer.get("failed"):
                raise Fault(HAND_WORK, str(answer))
            module.sound(wanted)
            order.append(wanted)
            if not {one.stamp for one in order[-2:]} <= set(module.trusted()):
                raise Fault(CORRUPT, f"one of the last two versions of {[one.label for one in order]} is gone")


class FullDisk(Builds):
    name, what = "full-disk", "a file system without room, or without inodes, that gets some later"

    def prepare(self) -> None:
        if os.geteuid() != 0:
            raise Unsupported("only root can mount")
        super().prepare()
        self.disk = self.directory / "small"
        self.disk.mkdir()

    def run(self, chance: random.Random, place: Path) -> None:
        size, inodes = chance.choice([(chance.randint(40, 4000), 10_000), (60_000, chance.randint(8, 160))])
        options = f"size={size}k,nr_inodes={inodes},mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.disk)], check=True, timeout=20)
        try:
            module = Module(owned_directory(self.disk / "lab"), self.upstream)
            for _ in range(2):
                wanted = Wanted(chance.choice(LABELS))
                answer = module.provide(wanted, space=0)
                if answer.get("failed") and "no space" not in str(answer.get("msg")):
                    raise Fault(HAND_WORK, f"the message doesn't name the cause, no space: {answer}")
                module.trusted()
            more = ["mount", "-o", "remount,size=64m,nr_inodes=10000", str(self.disk)]
            subprocess.run(more, check=True, timeout=20)
            module.repair(wanted)
        finally:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True, timeout=20)


class TwoAtOnce(Builds):
    name, what = "two-at-once", "two or three runs of module artifact at once, of which one may be killed"

    def run(self, chance: random.Random, place: Path) -> None:
        module = Module(owned_directory(place / "lab"), self.upstream)
        started = []
        for _ in range(chance.choice([2, 2, 3])):
            started.append(module.start(Wanted(chance.choice(LABELS))))
            time.sleep(chance.uniform(0, self.usual / 2))
        if chance.random() < 0.5:
            victim = started.pop(chance.randrange(len(started)))
            if self.kill(victim, whole=chance.random() < 0.5):
                module.reap_killed(victim)
            else:
                module.answer(victim)
        for process in started:
            answer = module.answer(process)
            if answer.get("failed") or answer["state"] != "installed":
                raise Fault(HAND_WORK, f"one of several parallel runs failed: {answer}")
        module.trusted()
        module.repair(Wanted(chance.choice(LABELS)))


def rows() -> list[type[Row]]:
    """Return every kind of this module, in the order of the table."""
    assert USER.pw_uid, "builds don't run as root"
    return [Kill, PowerCut, Clock, FullDisk, TwoAtOnce]
