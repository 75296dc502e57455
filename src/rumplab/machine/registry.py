"""The records of the machines that ``rumplab run`` and ``rumplab guest start`` started, one directory for each machine.

``<root>/NAME/`` holds ``machine.json``, ``serial.log``, ``qemu.log`` and the sockets ``qmp.sock`` and ``gdb.sock``.
Every change takes the lock of the root, so that two commands that start at the same time can't take the same name or
port. If a command finds a record whose process has ended, it retires the record: it moves the logs to
``<root>/.ended/NAME/``. If a record is damaged and a process listens on its socket, the command makes a new record.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from rumplab.errors import RumplabError, UsageError
from rumplab.host import locks, peer, ports, process
from rumplab.host.answers import MALFORMED, check_fields
from rumplab.lab import places
from rumplab.lab.config import SCHEMA, Lab
from rumplab.machine import nics
from rumplab.machine.disk_controllers import Disk
from rumplab.machine.nics import Forward, Nic

NAME_LENGTH = 32
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}")
SOCKET = "qmp.sock"
STUB = "gdb.sock"
RECORD = "machine.json"
# See rumplab.machine.snapshots. The file is large, and useless after the machine has ended.
SNAPSHOTS = "snapshots"
# The longest name of a machine's socket: that of a guest's serial line.
LONGEST_SOCKET = "com0.sock"
# The size of sun_path in bytes, with the closing NUL.
SOCKET_PATH_LIMIT = 104 if sys.platform == "darwin" else 108
# The number of ended machines whose logs are kept.
ENDED_KEPT = 16


@dataclass(frozen=True)
class Machine:
    """A machine's record. `pid` and `token` identify its process (see rumplab.host.process); `since` is UNIX time.

    `snapshot` says that QEMU doesn't write to `image`; `drives` are further disks. `console` is "serial" if the machine
    has no VGA card, or "vga". It is empty for a guest: a guest has a VGA card, but its console is a serial port.
    `gdb_port` is 0 if the debug stub listens on the machine's socket, which only its user can open.
    `recording` is the directory of the recording that QEMU writes. `guest` says how ``rumplab guest start`` started the
    machine: "run", or "kgdb" or "ipkdb" if the kernel waits for a debugger. It is empty if ``rumplab run`` did.
    """

    name: str
    directory: str
    gdb_port: int = 0
    image: str | None = None
    program: str | None = None
    program_sha256: str | None = None
    snapshot: bool = False
    drives: tuple[Disk, ...] = ()
    console: str = ""
    nics: tuple[Nic, ...] = ()
    accel: str = ""
    guest: str = ""
    recording: str | None = None
    pid: int = 0
    token: str = ""
    since: float = 0.0
    argv: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def starting(self) -> bool:
        """Whether `pid` is still the launcher, which made the record, and not yet QEMU."""
        return not self.argv

    @property
    def path(self) -> Path:
        return Path(self.directory)

    @property
    def serial_log(self) -> Path:
        return self.path / "serial.log"

    @property
    def qemu_log(self) -> Path:
        return self.path / "qemu.log"

    @property
    def socket(self) -> Path:
        return self.path / SOCKET

    @property
    def stub(self) -> str:
        """The address of the debug stub for GDB's 'target remote': a socket's path, or HOST:PORT."""
        return f"{ports.LOOPBACK}:{self.gdb_port}" if self.gdb_port else str(self.path / STUB)

    @property
    def files(self) -> list[tuple[str, bool]]:
        """The files of its disks as (path, whether QEMU writes to it)."""
        files = [(drive.file, drive.writes) for drive in self.drives]
        return [(self.image, not self.snapshot), *files] if self.image else files

    @property
    def forwards(self) -> list[Forward]:
        return [forward for card in self.nics for forward in card.forwards]

    @property
    def tcp_ports(self) -> set[int]:
        """Its TCP ports on 127.0.0.1: that of the debug stub, and those that are forwarded to the guest."""
        stub = {self.gdb_port} if self.gdb_port else set()
        return stub | {forward.host for forward in self.forwards if forward.protocol == "tcp"}

    def alive(self) -> bool:
        return process.alive(self.pid, self.token)


def check_name(name: str) -> str:
    """Returns `name` if it is valid for a machine; UsageError otherwise."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' can't name a machine: use up to {NAME_LENGTH} letters, digits, '.', '_' and '-',"
            " beginning with a letter or digit"
        )
    return name


def base_name(path: str) -> str:
    """Returns a valid machine name, made from the file name of an image or program."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-._")
    # Leave room for the number that distinguishes machines of the same image.
    return name[: NAME_LENGTH - 4].rstrip("-._") or "machine"


class Machines:
    """The machines of this user in one lab, below the directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self) -> list[Machine]:
        """Returns the running machines, sorted by name. Retires the records of machines that have ended."""
        with locks.held(self.root):
            return self._all()

    def _all(self) -> list[Machine]:
        found = []
        for path in sorted(self.root.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                machine = read_record(path)
            except RumplabError as error:
                machine = self._record_again(path, str(error))
            if machine is None or not machine.alive():
                self._retire(path)
            else:
                found.append(machine)
        return found

    def _record_again(self, path: Path, why: str) -> Machine | None:
        """Makes a new record for the machine in the directory `path`, from what its process shows. `why` says what is
        wrong with the old record. Returns None if no process listens on the machine's socket."""
        pid = peer.listening(path / SOCKET)
        token = process.started(pid) if pid else None
        if pid is None or token is None:
            # No error: the caller retires the record, keeps its logs and lists the other machines.
            print(f"rumplab: {why}; no process listens on its socket, so the machine has ended", file=sys.stderr)
            return None
        machine = Machine(
            name=path.name, directory=str(path), pid=pid, token=token, since=time.time(), argv=process.words(pid)
        )
        write_record(machine)
        print(
            f"rumplab: {why}; the machine runs (pid {pid}) and has a new record now, without what it booted, its"
            " symbols and its ports",
            file=sys.stderr,
        )
        return machine

    def find(self, name: str) -> Machine:
        """Returns the running machine `name`. If there is none, RumplabError lists the running machines."""
        machines = self.all()
        for machine in machines:
            if machine.name == name:
                return machine
        names = ", ".join(machine.name for machine in machines)
        raise RumplabError(
            f"no machine called '{name}' is running; {'running: ' + names if names else 'none is running'}"
        )

    def claim(self, wanted: Machine, numbered: bool, seen_macs: Collection[str] = ()) -> Machine:
        """Makes the directory and the record of `wanted`, and returns the machine with its final name and addresses.
        The record names the calling process until `update` writes QEMU's.

        If the name is taken, appends a number with `numbered`, and raises RumplabError without. Gives each network card
        without an address one that no other machine has and that is not in `seen_macs`, the addresses that the bridge
        has seen. RumplabError if a port or an address on the bridge is taken, or if another of these machines uses the
        image.
        """
        with locks.held(self.root):
            others = self._all()
            check_free(wanted, others)
            check_macs(wanted, others, seen_macs)
            name = wanted.name
            if numbered:
                name = free_name(name, {other.name for other in others})
            elif any(other.name == name for other in others):
                raise RumplabError(f"a machine called '{name}' is running; 'rumplab stop {name}' ends it")
            wanted = replace(wanted, nics=addressed(wanted.nics, name, others, seen_macs))
            directory = self.root / name
            token = process.started(os.getpid()) or ""
            machine = replace(
                wanted, name=name, directory=str(directory), pid=os.getpid(), token=token, since=time.time()
            )
            self._create(machine)
            return machine

    def _create(self, machine: Machine) -> None:
        try:
            machine.path.mkdir(mode=0o700)
            machine.serial_log.touch()
            write_record(machine)
        except OSError as error:
            shutil.rmtree(machine.path, ignore_errors=True)
            remedy = "free some space" if error.errno == errno.ENOSPC else "check its permissions"
            raise RumplabError(f"cannot record the machine in {machine.path}: {error.strerror}; {remedy}") from error

    def update(self, machine: Machine) -> None:
        """Replaces the record in one step."""
        with locks.held(self.root):
            write_record(machine)

    def started(self, machine: Machine, seconds: float) -> Machine | None:
        """Waits at most `seconds` until QEMU runs for `machine`. Returns the machine with its present record; None if
        QEMU doesn't run by then or has ended."""
        deadline = time.monotonic() + seconds
        current: Machine | None = machine
        while current is not None and current.starting:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.02)
            current = next((other for other in self.all() if other.name == machine.name), None)
        return current

    def retire(self, machine: Machine) -> None:
        """Removes the record of a machine whose process has ended, and keeps its logs."""
        with locks.held(self.root):
            # Another command may have retired it, and a new machine may have its name.
            try:
                current = read_record(machine.path)
            except RumplabError:
                # A damaged record is not a new machine's: `all` would have replaced it.
                current = machine
            if current is not None and (current.pid, current.token) == (machine.pid, machine.token):
                self._retire(machine.path)

    def abandon(self, machine: Machine) -> None:
        """Removes the record of a machine whose QEMU never ran, whatever process the record names now."""
        with locks.held(self.root):
            if machine.path.exists():
                self._retire(machine.path)

    @contextlib.contextmanager
    def claimed(self, machine: Machine) -> Iterator[None]:
        """Removes the record if the block, between the claim and QEMU's start, fails."""
        try:
            yield
        except BaseException:
            self.abandon(machine)
            raise

    def ended(self, name: str) -> Path | None:
        """Returns the directory with the logs of the last ended machine `name`; None if there is none."""
        path = self.root / ".ended" / name
        return path if path.is_dir() else None

    def forget(self, name: str) -> None:
        """Removes the logs of the ended machine `name`."""
        shutil.rmtree(self.root / ".ended" / name, ignore_errors=True)

    def _retire(self, path: Path) -> None:
        kept = self.root / ".ended"
        kept.mkdir(mode=0o700, exist_ok=True)
        for entry in path.iterdir():
            if entry.is_socket() or entry.is_fifo():
                entry.unlink()
            elif entry.name == SNAPSHOTS:
                shutil.rmtree(entry, ignore_errors=True)
        shutil.rmtree(kept / path.name, ignore_errors=True)
        path.rename(kept / path.name)
        (kept / path.name).touch()
        for old in sorted(kept.iterdir(), key=lambda entry: entry.stat().st_mtime)[:-ENDED_KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def check_free(wanted: Machine, others: list[Machine]) -> None:
    """Raises RumplabError if another process has one of the ports, or if another machine's disk is the same file and
    one of the two machines writes to it."""
    for other in others:
        if wanted.gdb_port in other.tcp_ports:
            raise port_taken(str(wanted.gdb_port), other, "--gdb-port")
        for forward in wanted.forwards:
            if uses(other, forward):
                raise port_taken(forward.key, other, "--forward")
        check_files(wanted, other)
    why = ports.refusal(wanted.gdb_port) if wanted.gdb_port else None
    if why:
        raise RumplabError(f"port {wanted.gdb_port} on 127.0.0.1 {why}; use another --gdb-port, or leave it out")
    for forward in wanted.forwards:
        why = ports.refusal(forward.host, forward.protocol)
        if why:
            raise RumplabError(f"port {forward.key} on 127.0.0.1 {why}; forward another port of the host")


def check_files(wanted: Machine, other: Machine) -> None:
    """Raises RumplabError if both machines have the same file as a disk, and one of them writes to it."""
    theirs = dict(other.files)
    for file, writes in wanted.files:
        if file in theirs and (writes or theirs[file]):
            how = "--snapshot" if file == wanted.image else "snapshot of --drive, or --snapshot"
            raise RumplabError(
                f"{file} is in use by machine '{other.name}' (pid {other.pid}); stop it with"
                f" 'rumplab stop {other.name}', or run both with {how}"
            )


def uses(machine: Machine, forward: Forward) -> bool:
    """Returns whether `machine` has the host's port of `forward`."""
    if forward.protocol == "tcp":
        return forward.host in machine.tcp_ports
    return forward.key in {other.key for other in machine.forwards}


def port_taken(port: str, other: Machine, option: str) -> RumplabError:
    """Returns the error for a port that the machine `other` has. `option` is the one that asked for it."""
    return RumplabError(
        f"port {port} is taken by machine '{other.name}' (pid {other.pid});"
        f" stop it with 'rumplab stop {other.name}' or use another {option}"
    )


def check_macs(wanted: Machine, others: list[Machine], seen: Collection[str]) -> None:
    """Raises RumplabError if an address of `wanted` on the bridge belongs to another machine."""
    for mac in nics.on_bridge(wanted.nics):
        for other in others:
            if mac in nics.on_bridge(other.nics):
                raise RumplabError(
                    f"{mac} is the address of machine '{other.name}' (pid {other.pid}) on the bridge;"
                    " use another, or leave it out"
                )
        if mac in seen:
            raise RumplabError(f"another device on the bridge has the address {mac}; use another, or leave it out")


def addressed(cards: Sequence[Nic], name: str, others: list[Machine], seen: Collection[str]) -> tuple[Nic, ...]:
    """Returns the cards of machine `name`, each with an address; see Machines.claim."""
    used = {mac for other in others for mac in nics.on_bridge(other.nics)}
    # The seed has the user id, since machines of several users may have the same name.
    return nics.with_macs(cards, f"{os.getuid()} {name}", used.union(seen))


def free_name(base: str, taken: set[str]) -> str:
    """Returns `base` if it is free, otherwise ``BASE-NUMBER`` with the lowest free number from 2 on."""
    if base not in taken:
        return base
    return next(name for number in range(2, len(taken) + 3) if (name := f"{base}-{number}") not in taken)


def read_record(directory: Path) -> Machine | None:
    """Returns the record in `directory`; None if there is none. RumplabError if it is damaged, or lost while the
    machine's socket exists."""
    try:
        text = (directory / RECORD).read_text(encoding="utf-8")
    except FileNotFoundError:
        # The command that made the directory was killed before it wrote the record and before QEMU ran.
        if not (directory / SOCKET).exists():
            return None
        raise RumplabError(f"{directory / RECORD}, a machine's record, is gone") from None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(directory, error) from error
    try:
        data = json.loads(text)
        known = {item.name for item in fields(Machine)}
        machine = Machine(**{key: value for key, value in data.items() if key in known})
        cards = nics.from_data(data.get("nics", ()))
        drives = tuple(Disk(**drive) for drive in data.get("drives", ()))
        for one in (machine, *drives):
            check_fields(one)
        machine = replace(machine, directory=str(directory), argv=tuple(machine.argv), nics=cards, drives=drives)
    except MALFORMED as error:
        raise damaged(directory, error) from error
    # The directory may have been moved or copied: its present path and name apply.
    return replace(machine, name=directory.name)


def damaged(directory: Path, error: Exception) -> RumplabError:
    """Returns the error for a record that could not be parsed."""
    return RumplabError(f"{directory / RECORD}, a machine's record, is damaged ({error})")


def write_record(machine: Machine) -> None:
    """Writes ``machine.json`` under a temporary name and renames it, so that no reader sees half of it."""
    temporary = machine.path / f".{RECORD}"
    temporary.write_text(json.dumps(asdict(machine), indent=2) + "\n", encoding="utf-8")
    temporary.replace(machine.path / RECORD)


def open_machines(lab: Lab) -> Machines:
    """Returns this user's machines in `lab`. Their directory has a path that is short enough for sockets. Warns about
    running machines whose records are in the directory of an earlier release."""
    old = places.former(lab)
    for machine in running_in(old) if old else ():
        places.warn_once(
            f"an earlier rumplab started machine '{machine.name}' and recorded it in {old}, which this rumplab does not"
            f" use; end it with: kill {machine.pid}"
        )
    return Machines(places.directory(lab, "machines", fits))


def running_in(old: Path) -> Iterator[Machine]:
    """Yields the running machines that have a record in `old`."""
    for path in sorted(old.glob(f"*/{RECORD}")):
        with contextlib.suppress(RumplabError):
            machine = read_record(path.parent)
            if machine is not None and machine.alive():
                yield machine


def fits(root: Path) -> bool:
    """Returns whether the paths of machines' sockets below `root` are short enough for the kernel."""
    return len(os.fsencode(root)) + NAME_LENGTH + len(LONGEST_SOCKET) + 2 < SOCKET_PATH_LIMIT


def locate(machines: Machines, name: str) -> tuple[Path, Machine | None]:
    """Returns the console's log of machine `name`, and its record, or None if it has ended. RumplabError if there is
    neither a running nor an ended machine of that name."""
    check_name(name)
    for machine in machines.all():
        if machine.name == name:
            return machine.serial_log, machine
    kept = machines.ended(name)
    if kept is None:
        raise RumplabError(f"no machine called '{name}' is or was running; 'rumplab ps' lists those that are")
    return kept / "serial.log", None
