"""A guest's definition: the file ``guest.json`` in the guest's directory. It stays when the guest's machine ends.

``<root>/NAME/`` holds the definition, the image that boots the guest's kernel, and the disk that
``rumplab guest start --persist`` keeps. A running guest is a machine with the guest's name, which
rumplab.machine.registry records like every other machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host import locks
from rumplab.host.answers import MALFORMED, check_fields
from rumplab.lab import places
from rumplab.lab.config import SCHEMA, Lab, read_object
from rumplab.machine import nics
from rumplab.machine.nics import Nic
from rumplab.machine.registry import Machine, Machines, check_name

FILE = "guest.json"
# The disk that `--persist` keeps beside the definition; see rumplab.guest.overlay.
DISK = "disk.qcow2"
DISK_FORMAT = "qcow2"
NETBSD = "netbsd"
LINUX = "linux"
ARCHES = ("amd64", "i386")
# The directory of the sources as NetBSD's own build and the lab's build record it in the symbols.
SOURCE_NAME = "/usr/src"
GRUB = "grub"
DIRECT = "direct"
# The `config` of the lab's kernel with IPKDB, and the value of `guest` in the record of a machine that waits in IPKDB.
IPKDB = "ipkdb"


@dataclass(frozen=True)
class Guest:
    """A guest's definition. `kernel` is None for the lab's kernel, which is looked up at each start; then `config`
    names a kernel other than the lab's default. The symbols name the directory `sources` as `source_name`.

    `boot` is GRUB or DIRECT; None means that the kernel's format decides. `disk` is the root disk, of `disk_format`.
    """

    name: str
    kind: str
    arch: str
    kernel: str | None = None
    symbols: str | None = None
    sources: str | None = None
    source_name: str = SOURCE_NAME
    release: str | None = None
    config: str | None = None
    boot: str | None = None
    disk: str | None = None
    disk_format: str = "raw"
    root: str | None = None
    initrd: str | None = None
    append: str | None = None
    memory: str = "256M"
    nics: tuple[Nic, ...] = ()
    pci_bridge: bool = True
    vmnet: str | None = None
    schema: int = SCHEMA


class Guests:
    """The guests of this user in one lab, below the directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, name: str) -> Path:
        return self.root / name

    def all(self, tell: Callable[[str], None]) -> list[Guest]:
        """Every guest, sorted by name. An invalid definition is skipped, and `tell` is called with the error
        message."""
        found = []
        for path in sorted(self.root.glob(f"*/{FILE}")):
            try:
                found.append(self._read(path))
            except RumplabError as error:
                tell(str(error))
        return found

    def named(self, name: str) -> str:
        """`name`, if a guest of that name exists, with a valid definition or not. Else RumplabError lists the existing
        guests; UsageError when `name` is not a valid name."""
        if self.directory(check_name(name)).is_dir():
            return name
        names = ", ".join(sorted(path.parent.name for path in self.root.glob(f"*/{FILE}")))
        known = f"there are: {names}" if names else "there is none"
        raise RumplabError(f"no guest is called '{name}'; {known}; make one with: rumplab guest create {name}")

    def find(self, name: str) -> Guest:
        """The guest `name`. Errors as `named`, and RumplabError for an invalid definition."""
        return self._read(self.directory(self.named(name)) / FILE)

    def add(self, guest: Guest) -> None:
        """Writes a new definition, atomically. RumplabError when the name is taken."""
        directory = self.directory(guest.name)
        with locks.held(self.root):
            if directory.exists():
                raise RumplabError(
                    f"a guest called '{guest.name}' exists; choose another name, or: rumplab guest delete {guest.name}"
                )
            made = self.root / f".{guest.name}"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(mode=0o700)
            try:
                (made / FILE).write_text(json.dumps(asdict(guest), indent=2) + "\n", encoding="utf-8")
                made.rename(directory)
            except OSError:
                shutil.rmtree(made, ignore_errors=True)
                raise

    def remove(self, name: str) -> None:
        """Removes a guest, with the disk that `--persist` kept."""
        with locks.held(self.root):
            # The rename hides the directory first, so a half removed one is never taken for a guest.
            gone = self.root / f".{name}"
            shutil.rmtree(gone, ignore_errors=True)
            self.directory(name).rename(gone)
            shutil.rmtree(gone)

    def _read(self, path: Path) -> Guest:
        remedy = f"rumplab guest delete {path.parent.name}"
        data = read_object(path, remedy)
        known = {item.name for item in fields(Guest)}
        try:
            guest = Guest(**{key: value for key, value in data.items() if key in known})
            check_types(guest)
            return replace(guest, name=path.parent.name, nics=nics.from_data(data.get("nics", ())))
        except MALFORMED as error:
            raise RumplabError(f"{path} doesn't describe a guest ({error}); remove it: {remedy}") from error


def check_types(guest: Guest) -> None:
    """TypeError when a value doesn't have the type of its field of Guest, or isn't one of the field's values."""
    check_fields(guest)
    if guest.kind not in (NETBSD, LINUX) or guest.arch not in ARCHES or guest.boot not in (GRUB, DIRECT, None):
        raise TypeError(f"there is no {guest.kind}/{guest.arch} that boots by {guest.boot}")


def open_guests(lab: Lab) -> Guests:
    """The guests of this user. Their directory survives a logout and a reboot. Prints the names of guests that are
    still in the directory that an earlier version used."""
    guests = Guests(places.directory(lab, "guests", lasting=True))
    old = places.former(lab)
    left = sorted(path.parent.name for path in old.glob(f".guests/*/{FILE}")) if old else []
    if old and left:
        places.warn_once(
            f"{len(left)} of your guests ({', '.join(left)}) are in {old / '.guests'}, which rumplab no longer uses;"
            f" stop them, then move each with: mv {old / '.guests'}/NAME {guests.root}/"
        )
    return guests


def keeps_disk(directory: Path) -> bool:
    """Whether the guest in `directory` has a disk that `--persist` kept."""
    return (directory / DISK).exists()


def running(machines: Machines, name: str) -> Machine | None:
    """The machine of the guest `name`; None when it isn't running."""
    return next((machine for machine in machines.all() if machine.name == name and machine.guest), None)


def require_running(machines: Machines, guest: Guest) -> Machine:
    """The machine of `guest`. RumplabError when it isn't running."""
    machine = running(machines, guest.name)
    if machine is None:
        raise RumplabError(f"{guest.name} is not running; start it with: rumplab guest start {guest.name}")
    return machine
