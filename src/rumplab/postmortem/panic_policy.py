"""The policy of ``--on-panic``: what rumplab does when a guest fails, and the QEMU arguments for it.

The machine gets a pvpanic device, by which a guest reports a panic, and a second QMP socket for the process that
watches the machine. QEMU starts the machine stopped, and the watcher continues it after it has connected, so that it
misses no event. The machine stops instead of ending or rebooting.
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
# The exit status of `rumplab run` if the guest failed.
FAILED = 4
# The exit status of the lab's programs: they write the byte 0x10.
SUCCESS = 33
SOCKET = "events.sock"
EXIT_FILE = "exit.bytes"
POLICY = "panic.json"
REPORT = "panic.txt"


@dataclass(frozen=True)
class PanicPolicy:
    """The values of --on-panic and its related options.

    `script` is a file of GDB commands. A guest whose serial console matches the regular expression `pattern` has
    failed. Dumps go to `directory`. With `wait`, the machine stays stopped before its first instruction. With `exits`,
    the guest ends the machine by a byte; every status but `success` is a failure then.
    """

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
    """Returns the actions in the argument of --on-panic, and its script. ValueError says what is wrong."""
    actions: list[str] = []
    script = None
    for word in text.split(","):
        name, colon, file = word.partition(":")
        if name == SCRIPT and file and script is None:
            script = file
        elif word not in ACTIONS:
            second = name == SCRIPT and colon and file
            problem = "only one script can be given" if second else f"'{word}' is not an action"
            raise ValueError(f"{problem}; use {', '.join(ACTIONS)} and {SCRIPT}:FILE, with commas between them")
        actions.append(name)
    return tuple(dict.fromkeys(actions)), script


def pattern(text: str) -> str:
    """Returns `text`. ValueError if it is not a regular expression, or if it matches every line."""
    try:
        found = re.compile(text)
    except re.error as error:
        raise ValueError(f"'{text}' is not a regular expression: {error}") from error
    if found.search(""):
        raise ValueError(f"'{text}' matches every line, so each machine would fail at once; use a longer expression")
    return text


def argv(machine: Machine, policy: PanicPolicy) -> list[str]:
    """Returns the QEMU arguments for the policy. The caller adds the one that starts the machine stopped."""
    control = f"socket,id=events,path={value(str(machine.path / SOCKET))},server=on,wait=off"
    words = ["-no-reboot", "-no-shutdown", "-device", "pvpanic", "-chardev", control, "-qmp", "chardev:events"]
    if policy.exits:
        # isa-debug-exit ends QEMU during the guest's instruction, so that no dump would be possible.
        file = f"file,id=exit,path={value(str(machine.path / EXIT_FILE))}"
        words += ["-chardev", file, "-device", f"isa-debugcon,iobase={EXIT_PORT:#x},chardev=exit"]
    return words


def record(machine: Machine, policy: PanicPolicy) -> None:
    """Writes the policy beside the machine's record, for the process that watches the machine."""
    (machine.path / POLICY).write_text(json.dumps(asdict(policy)) + "\n", encoding="utf-8")


def recorded(machine: Machine) -> PanicPolicy:
    """Reads the policy that `machine` was started with. RumplabError if it has none, or if the file is damaged."""
    path = machine.path / POLICY
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(PanicPolicy)}
        policy = PanicPolicy(**{key: value for key, value in data.items() if key in known})
        check_fields(policy)
        return replace(policy, actions=tuple(policy.actions))
    except OSError as error:
        raise RumplabError(f"{machine.name} was started without --on-panic; start it again with that option") from error
    except MALFORMED as error:
        raise RumplabError(f"{path} is damaged ({error}); start the machine again") from error


def failure(directory: Path) -> str | None:
    """Returns the report on the failed machine whose record is, or was, in `directory`; None if it has not failed."""
    try:
        return (directory / REPORT).read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
