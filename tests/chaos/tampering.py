"""Damage installed files: `rumplab drift` must report it, and the next run must repair it.

The damage of one component must not hide the others.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

from support.labfixture import LabPrefix, make_lab

from chaos.building import FILES, Module, Wanted, owned_directory
from chaos.builds import Builds
from chaos.row import CORRUPT, HAND_WORK, Fault

JUNK = [b"", b"{", b"[]", b"null", b'{"schema": 1}', b"\xff\xfe", b"[" * 5000, b'{"schema": 1, "files": [1]}']


def flip(path: Path, chance: random.Random) -> None:
    """Change one bit, but not the size and the modification time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def junk(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.choice(JUNK))


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def change_mode(path: Path, chance: random.Random) -> None:
    path.chmod(chance.choice([0o600, 0o666, 0o755]))


def replace(path: Path, chance: random.Random) -> None:
    """Replace a file with a link, a directory or a FIFO."""
    path.unlink()
    kind = chance.choice(["1", "/dev/null", "nowhere", "directory", "fifo"])
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)


def add(path: Path, chance: random.Random) -> None:
    """Add a file to the directory of `path`."""
    path.with_name(f"new-{chance.randrange(9)}").write_bytes(b"x")


TREE = [flip, truncate, junk, remove, change_mode, replace, add]
# In these files, which the others are compared with, any change counts except one of the mode.
RECORDS = [flip, truncate, junk, remove, replace]
NAMES = [f"bin/{number}" for number in range(1, FILES + 1)] + [".provenance.json", ".files.json", ".complete"]


class Tamper(Builds):
    name, what = "tamper", "files of a tree, its lists, link and descriptor altered, lost or exchanged"

    def prepare(self) -> None:
        super().prepare()
        # The path of a socket is limited to about 100 bytes, so that this directory has a short name.
        self.runtime = Path(tempfile.mkdtemp(prefix="rc"))
        self.prefix = self.directory / "lab"
        self.lab: LabPrefix = make_lab(self.prefix, self.runtime)
        self.lab.component("other", {})
        owned_directory(self.prefix)
        for path in self.prefix.rglob("*"):
            shutil.chown(path, *(os.stat(self.prefix).st_uid, os.stat(self.prefix).st_gid))
        self.module = Module(self.prefix, self.upstream)
        self.wanted = Wanted("a")
        self.module.repair(self.wanted)

    def end(self) -> None:
        shutil.rmtree(self.runtime)
        super().end()

    def damage(self, chance: random.Random) -> tuple[list[str], bool]:
        """Damage some files. Return a description of each damage, and whether the next run must notice it."""
        tree = Path(os.path.realpath(self.prefix / "hello"))
        said, noticed = [], False
        for _ in range(chance.choice([1, 1, 2, 4])):
            name = chance.choice(NAMES)
            path = chance.choice([tree / name, tree / name, self.lab.descriptor("hello")])
            if not path.is_file() or path.is_symlink() or not path.stat().st_size:
                continue
            how = chance.choice(TREE if path.parent == tree / "bin" else RECORDS)
            before = path.read_bytes()
            how(path, chance)
            said.append(f"{how.__name__} {path.relative_to(self.prefix)}")
            same = path.is_file() and not path.is_symlink() and path.read_bytes() == before
            changed = not same or how is add or path.stat().st_mode & 0o777 != 0o644
            # A descriptor has fields that nothing is compared with.
            noticed |= tree in path.parents and changed
        if chance.random() < 0.2:
            link = self.prefix / "hello"
            link.unlink()
            if chance.random() < 0.5:
                link.symlink_to(chance.choice(["store/nowhere", "hello", "store"]))
            said.append("the link")
            noticed = True
        return said, noticed

    def is_known(self) -> bool:
        """Return whether a descriptor, or a link into the store, still shows that the component exists."""
        link = self.prefix / "hello"
        leads = os.readlink(link) if link.is_symlink() else ""
        return os.path.lexists(self.lab.descriptor("hello")) or leads.startswith("store/")

    def run(self, chance: random.Random, place: Path) -> None:
        said, noticed = self.damage(chance)
        try:
            self.check_reports(said, noticed and self.is_known())
            answer = self.module.repair(self.wanted)
            if noticed and not answer["changed"]:
                raise Fault(HAND_WORK, f"after {said}, a run changed nothing")
            found = self.lab.tool("drift")
            if found.returncode:
                raise Fault(HAND_WORK, f"after {said} and the next run, doctor reports: {found.stdout}{found.stderr}")
        except Fault:
            # The next run begins with a complete lab.
            shutil.rmtree(self.prefix / "store")
            self.module.repair(self.wanted)
            raise

    def check_reports(self, said: list[str], noticed: bool) -> None:
        """Raise Fault unless `status` and `doctor` work, and doctor reports the damage if `noticed`."""
        status = self.lab.tool("status", "--json")
        if status.returncode not in (0, 1) or "Traceback" in status.stderr or not status.stdout:
            raise Fault(HAND_WORK, f"after {said}, status says: {status.stdout}{status.stderr}")
        if "other" not in [one["name"] for one in json.loads(status.stdout)["components"]]:
            raise Fault(HAND_WORK, f"after {said}, status doesn't list the other component: {status.stdout}")
        found = self.lab.tool("drift", "--json")
        if found.returncode not in (0, 1) or "Traceback" in found.stderr:
            raise Fault(HAND_WORK, f"after {said}, drift says: {found.stdout}{found.stderr}")
        if noticed and found.returncode == 0:
            raise Fault(CORRUPT, f"after {said}, drift found nothing: {found.stdout}")


def rows() -> list[type[Tamper]]:
    return [Tamper]
