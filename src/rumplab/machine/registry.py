"""The records of the machines that ``rumplab run`` started: one directory a machine.

``<root>/NAME/`` holds ``machine.json``, ``serial.log``, ``qemu.log`` and the sockets ``qmp.sock`` and ``gdb.sock``. All
changes are made under the root's lock, so that two starts at once can't take the same name or port. A record whose
process is gone is retired when it is met: its logs move to ``<root>/.ended/NAME/``. One that is damaged is made again
from the process that has its socket, where there is one.
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
from rumplab.host.answers import UNFIT, check_fields
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
# A guest's serial lines have the longest names of a machine's sockets.
LONGEST_SOCKET = "com0.sock"
# What sun_path holds, with the closing NUL.
SOCKET_PATH_LIMIT = 104 if sys.platform == "darwin" else 108
ENDED_KEPT = 16


@dataclass(frozen=True)
class Machine:
    """A machine's record. `pid` and `token` name its process (see rumplab.host.process); `since` is UNIX time.

    `snapshot` says that nothing is written to `image`; `drives` are further disks. `console` is "serial", where there
    is no VGA card, or "vga"; it is empty for a guest, which has a card, and whose console is a serial port.
    `gdb_port` is 0 where the debug stub is the machine's socket, which only its user can open.
    `recording` is the directory of the recording that QEMU makes of it.
    `guest` says how ``rumplab guest start`` started it: "run", or "kgdb" or "ipkdb" where the kernel
    waits for a debugger.
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
        """Whether the process is still the launcher, which has claimed the record, and not yet QEMU."""
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
        """Where the debug stub listens, as GDB's 'target remote' has it: a socket's path, or a host and port."""
        return f"{ports.LOOPBACK}:{self.gdb_port}" if self.gdb_port else str(self.path / STUB)

    @property
    def files(self) -> list[tuple[str, bool]]:
        """The files that are its disks, each with whether it is written to."""
        files = [(drive.file, drive.writes) for drive in self.drives]
        return [(self.image, not self.snapshot), *files] if self.image else files

    @property
    def forwards(self) -> list[Forward]:
        return [forward for card in self.nics for forward in card.forwards]

    @property
    def tcp_ports(self) -> set[int]:
        """The TCP ports of 127.0.0.1 that are its own: the debug stub's, and those that lead to the guest."""
        stub = {self.gdb_port} if self.gdb_port else set()
        return stub | {forward.host for forward in self.forwards if forward.protocol == "tcp"}

    def alive(self) -> bool:
        return process.alive(self.pid, self.token)


def check_name(name: str) -> str:
    """`name` if a machine can be called so; UsageError otherwise."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' can't name a machine: use up to {NAME_LENGTH} letters, digits, '.', '_' and '-',"
            " beginning with a letter or digit"
        )
    return name


def base_name(path: str) -> str:
    """A machine name made from an image's or program's file name."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-._")
    # Room for the number that tells two machines of one image apart.
    return words[: NAME_LENGTH - 4].rstrip("-._") or "machine"


class Machines:
    """The machines of this user in one lab, below the directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self) -> list[Machine]:
        """The machines that are running, by name. Retires the records of those that aren't."""
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
                machine = self._made_again(path, str(error))
            if machine is None or not machine.alive():
                self._retire(path)
            else:
                found.append(machine)
        return found

    def _made_again(self, path: Path, why: str) -> Machine | None:
        """A record for the machine in `path`, whose own can't be read: what its process shows. None without one."""
        pid = peer.listening(path / SOCKET)
        token = process.started(pid) if pid else None
        if pid is None or token is None:
            # An end that isn't its own can't hide others; the logs are kept.
            print(f"rumplab: {why}; no process has its socket, so it has ended", file=sys.stderr)
            return None
        machine = Machine(
            name=path.name, directory=str(path), pid=pid, token=token, since=time.time(), argv=process.words(pid)
        )
        write_record(machine)
        print(
            f"rumplab: {why}; the machine runs (pid {pid}), and has a new one, which doesn't say what it booted from,"
            " nor its symbols and ports",
            file=sys.stderr,
        )
        return machine

    def find(self, name: str) -> Machine:
        """The running machine `name`; RumplabError lists those there are."""
        machines = self.all()
        for machine in machines:
            if machine.name == name:
                return machine
        names = ", ".join(machine.name for machine in machines)
        raise RumplabError(
            f"no machine called '{name}' is running; {'running: ' + names if names else 'none is running'}"
        )

    def claim(self, wanted: Machine, numbered: bool, seen_macs: Collection[str] = ()) -> Machine:
        """Makes the directory and record of `wanted`, which the calling process owns until `update`.

        With `numbered`, a taken name gets a number; else it is an error. Network cards without an address get one
        that is neither another machine's nor in `seen_macs`, those that the bridge has seen. RumplabError also when a
        port is taken, or an address on the bridge, or when another of these machines uses the image.
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
        """Writes the record again, whole or not at all."""
        with locks.held(self.root):
            write_record(machine)

    def started(self, machine: Machine, seconds: float) -> Machine | None:
        """`machine` once QEMU runs, waiting at most `seconds`; None when it doesn't by then, or has ended."""
        deadline = time.monotonic() + seconds
        current: Machine | None = machine
        while current is not None and current.starting:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.02)
            current = next((other for other in self.all() if other.name == machine.name), None)
        return current

    def retire(self, machine: Machine) -> None:
        """Takes the record away once its process is gone, keeping its logs."""
        with locks.held(self.root):
            # Another command may have retired it and the name may have been taken since.
            try:
                current = read_record(machine.path)
            except RumplabError:
                # Nobody else's, then: `all` makes a damaged one again.
                current = machine
            if current is not None and (current.pid, current.token) == (machine.pid, machine.token):
                self._retire(machine.path)

    def abandon(self, machine: Machine) -> None:
        """Takes the record of a machine away whose process never became QEMU, whatever it names by now."""
        with locks.held(self.root):
            if machine.path.exists():
                self._retire(machine.path)

    @contextlib.contextmanager
    def claimed(self, machine: Machine) -> Iterator[None]:
        """For what is done between a claim and QEMU's start: takes the record away where that fails."""
        try:
            yield
        except BaseException:
            self.abandon(machine)
            raise

    def ended(self, name: str) -> Path | None:
        """The directory with the logs of the last machine `name` that ended, if they are still there."""
        path = self.root / ".ended" / name
        return path if path.is_dir() else None

    def forget(self, name: str) -> None:
        """Removes the logs of the ended machine `name`."""
        shutil.rmtree(self.root / ".ended" / name, ignore_errors=True)

    def _retire(self, path: Path) -> None:
        kept = self.root / ".ended"
        kept.mkdir(mode=0o700, exist_ok=True)
        for entry in path.iterdir():
            if entry.is_socket():
                entry.unlink()
        shutil.rmtree(kept / path.name, ignore_errors=True)
        path.rename(kept / path.name)
        (kept / path.name).touch()
        for old in sorted(kept.iterdir(), key=lambda entry: entry.stat().st_mtime)[:-ENDED_KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def check_free(wanted: Machine, others: list[Machine]) -> None:
    """RumplabError when another machine has one of the ports, or writes to the same disk image."""
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
    """RumplabError when both machines have a file that one of them writes to."""
    theirs = dict(other.files)
    for file, writes in wanted.files:
        if file in theirs and (writes or theirs[file]):
            how = "--snapshot" if file == wanted.image else "snapshot of --drive, or --snapshot"
            raise RumplabError(
                f"{file} is in use by machine '{other.name}' (pid {other.pid}); stop it with"
                f" 'rumplab stop {other.name}', or run both with {how}"
            )


def uses(machine: Machine, forward: Forward) -> bool:
    """Whether `machine` has the port of the host that `forward` wants."""
    if forward.protocol == "tcp":
        return forward.host in machine.tcp_ports
    return forward.key in {other.key for other in machine.forwards}


def port_taken(port: str, other: Machine, option: str) -> RumplabError:
    return RumplabError(
        f"port {port} is taken by machine '{other.name}' (pid {other.pid});"
        f" stop it with 'rumplab stop {other.name}' or use another {option}"
    )


def check_macs(wanted: Machine, others: list[Machine], seen: Collection[str]) -> None:
    """RumplabError when an address that `wanted` was given is another's on the bridge."""
    for mac in nics.on_bridge(wanted.nics):
        for other in others:
            if mac in nics.on_bridge(other.nics):
                raise RumplabError(
                    f"{mac} is the address of machine '{other.name}' (pid {other.pid}) on the bridge;"
                    " use another, or leave it out"
                )
        if mac in seen:
            raise RumplabError(f"{mac} is somebody else's address on the bridge; use another, or leave it out")


def addressed(cards: Sequence[Nic], name: str, others: list[Machine], seen: Collection[str]) -> tuple[Nic, ...]:
    """`cards` of machine `name`, each with an address; see Machines.claim."""
    used = {mac for other in others for mac in nics.on_bridge(other.nics)}
    # Machines of one name may run for several users.
    return nics.with_macs(cards, f"{os.getuid()} {name}", used.union(seen))


def free_name(base: str, taken: set[str]) -> str:
    """`base`, or `base` with the first number that is free."""
    if base not in taken:
        return base
    return next(name for number in range(2, len(taken) + 3) if (name := f"{base}-{number}") not in taken)


def read_record(directory: Path) -> Machine | None:
    """The record in `directory`; None where there is none. RumplabError for one that can't be understood."""
    try:
        text = (directory / RECORD).read_text(encoding="utf-8")
    except FileNotFoundError:
        # Who claims the directory writes it, and may have been killed before.
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
    except UNFIT as error:
        raise damaged(directory, error) from error
    # The directory is where it is, and the name with it.
    return replace(machine, name=directory.name)


def damaged(directory: Path, error: Exception) -> RumplabError:
    return RumplabError(f"{directory / RECORD}, a machine's record, is damaged ({error})")


def write_record(machine: Machine) -> None:
    """Writes ``machine.json`` to a temporary name and renames it."""
    temporary = machine.path / f".{RECORD}"
    temporary.write_text(json.dumps(asdict(machine), indent=2) + "\n", encoding="utf-8")
    temporary.replace(machine.path / RECORD)


def open_machines(lab: Lab) -> Machines:
    """The records of this user, where a machine's sockets have paths that the kernel takes. Machines that are recorded
    where they were formerly, and still run, are named."""
    old = places.former(lab)
    for machine in formerly(old) if old else ():
        places.tell(
            f"machine '{machine.name}' was started by a rumplab that kept its records in {old}, where they are looked"
            f" for no more; end it with: kill {machine.pid}"
        )
    return Machines(places.directory(lab, "machines", fits))


def formerly(old: Path) -> Iterator[Machine]:
    """The machines with a record in `old` that run."""
    for path in sorted(old.glob(f"*/{RECORD}")):
        with contextlib.suppress(RumplabError):
            machine = read_record(path.parent)
            if machine is not None and machine.alive():
                yield machine


def fits(root: Path) -> bool:
    """Whether a machine's socket below `root` has a path that the kernel takes."""
    return len(os.fsencode(root)) + NAME_LENGTH + len(LONGEST_SOCKET) + 2 < SOCKET_PATH_LIMIT


def locate(machines: Machines, name: str) -> tuple[Path, Machine | None]:
    """The log of `name` and, if it is running, its record. RumplabError when there was no such machine."""
    check_name(name)
    for machine in machines.all():
        if machine.name == name:
            return machine.serial_log, machine
    kept = machines.ended(name)
    if kept is None:
        raise RumplabError(f"no machine called '{name}' is or was running; 'rumplab ps' lists those that are")
    return kept / "serial.log", None
