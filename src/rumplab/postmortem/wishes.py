"""What is to be done when a guest fails, as it is asked for, and what QEMU is told for it.

The machine gets a device by which a guest tells of a panic, and a control socket of its own for who attends to it. It
is started stopped, and let go once somebody listens, so that nothing is missed; where it would end or begin anew, it
stops.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host.answers import MALFORMED, check_fields
from rumplab.machine.qemu_argv import EXIT_PORT, value
from rumplab.machine.registry import Machine

DUMP, DEBUG, STOP, SCRIPT = "dump", "debug", "stop", "script"
ACTIONS = (DUMP, DEBUG, STOP)
# The exit code of a run whose guest failed.
FAILED = 4
# What the lab's programs end with: the byte 0x10.
SUCCESS = 33
SOCKET = "events.sock"
EXIT_FILE = "exit.bytes"
WISHES = "panic.json"
REPORT = "panic.txt"


@dataclass(frozen=True)
class Wishes:
    """What --on-panic asks for. `script` is a file of GDB commands, `pattern` what a failing guest says on its serial
    console, `directory` where dumps go. `wait` says that the machine is to stay stopped before its first instruction;
    `exits`, that the guest ends it by a byte, of which `success` is the status that is none of a failure."""

    actions: tuple[str, ...] = (DUMP,)
    script: str | None = None
    pattern: str | None = None
    directory: str = "."
    wait: bool = False
    exits: bool = False
    success: int = SUCCESS

    @property
    def dumps(self) -> bool:
        return self.actions != (STOP,)


def parse(text: str) -> tuple[tuple[str, ...], str | None]:
    """The actions that --on-panic names, and its script. ValueError says what is wrong."""
    actions: list[str] = []
    script = None
    for word in text.split(","):
        name, colon, file = word.partition(":")
        if name == SCRIPT and file and script is None:
            script = file
        elif word not in ACTIONS:
            again = "only one script can be given" if name == SCRIPT and colon and file else f"'{word}' is no action"
            raise ValueError(f"{again}; use {', '.join(ACTIONS)} and {SCRIPT}:FILE, with commas between them")
        actions.append(name)
    return tuple(dict.fromkeys(actions)), script


def pattern(text: str) -> str:
    """`text`, if it is a regular expression that a line of a console may match, or not. ValueError otherwise."""
    try:
        found = re.compile(text)
    except re.error as error:
        raise ValueError(f"'{text}' is not a regular expression: {error}") from error
    if found.search(""):
        raise ValueError(f"'{text}' matches every line, so that each machine would fail at once; say more")
    return text


def argv(machine: Machine, wishes: Wishes) -> list[str]:
    """What QEMU is told beside the machine itself. The machine stops where it would end; that it begins stopped is up
    to its own arguments."""
    control = f"socket,id=events,path={value(str(machine.path / SOCKET))},server=on,wait=off"
    words = ["-no-reboot", "-no-shutdown", "-device", "pvpanic", "-chardev", control, "-qmp", "chardev:events"]
    if wishes.exits:
        # QEMU's own device for it ends QEMU in the middle of the instruction, and nothing would be left.
        file = f"file,id=exit,path={value(str(machine.path / EXIT_FILE))}"
        words += ["-chardev", file, "-device", f"isa-debugcon,iobase={EXIT_PORT:#x},chardev=exit"]
    return words


def record(machine: Machine, wishes: Wishes) -> None:
    """Writes what is wanted beside the machine's record, for who attends to it."""
    (machine.path / WISHES).write_text(json.dumps(asdict(wishes)) + "\n", encoding="utf-8")


def recorded(machine: Machine) -> Wishes:
    """What was asked for when `machine` was started. RumplabError where nothing was."""
    path = machine.path / WISHES
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(Wishes)}
        wishes = Wishes(**{key: value for key, value in data.items() if key in known})
        check_fields(wishes)
        return replace(wishes, actions=tuple(wishes.actions))
    except OSError as error:
        raise RumplabError(f"{machine.name} was started without --on-panic") from error
    except MALFORMED as error:
        raise RumplabError(f"{path} is damaged ({error}); start the machine anew") from error


def failure(directory: Path) -> str | None:
    """What was told of the failure of the machine whose record is, or was, in `directory`."""
    try:
        return (directory / REPORT).read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
