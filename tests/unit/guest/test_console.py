"""The dialogue with a console; the test plays the guest's shell."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rumplab.commands.guest import pci
from rumplab.errors import RumplabError
from rumplab.guest import console, lines, shell
from rumplab.guest.console import Console
from rumplab.machine.registry import Machine

LIST = """\
000:00:0: Intel 82441FX (PMC) PCI and Memory Controller (host bridge, revision 0x02) [pchb0]
000:01:3: Intel 82371AB (PIIX4) Power Management Controller (miscellaneous bridge, revision 0x03)
000:02:0: vendor 1234 product 1111 (VGA display, revision 0x02) [genfb0]
"""
OTHER = "001:01:0: Intel i82540EM 1000baseT Ethernet (ethernet network, revision 0x03) [wm0]\n"


class FakeConsole:
    """A guest's console: echoes input, answers each line, and writes its output to a log as QEMU does."""

    def __init__(self, machine: Machine, answers: dict[str, str], prompt: str = "# ", greeting: str = "") -> None:
        self.answers, self.prompt = answers, prompt
        self.typed: list[str] = []
        # Further answers, which hold after this line was typed.
        self.after: dict[str, dict[str, str]] = {}
        self.log = machine.serial_log.open("wb", buffering=0)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(machine.path / "com0.sock"))
        self.server.listen()
        self.client: socket.socket | None = None
        self.say(greeting or prompt)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def say(self, text: str) -> None:
        data = text.replace("\n", "\r\n").encode()
        self.log.write(data)
        if self.client is not None:
            with contextlib.suppress(OSError):
                self.client.sendall(data)

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            self.client, _ = self.server.accept()
            line = ""
            while data := self.client.recv(100):
                for character in data.decode():
                    if character != "\r":
                        line += character
                        self.say(character)
                        continue
                    self.typed.append(line)
                    answer = self.answers.get(line, "" if not line else "not found\n")
                    self.answers.update(self.after.get(line, {}))
                    # An answer without a newline is a prompt itself.
                    self.say("\n" + answer + (self.prompt if not answer or answer.endswith("\n") else ""))
                    line = ""

    def close(self) -> None:
        self.server.close()
        if self.client is not None:
            self.client.close()
        self.log.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(name="nb", directory=str(tmp_path), gdb_port=1)


@pytest.fixture
def tty(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeConsole]]:
    made: list[FakeConsole] = []
    monkeypatch.setattr(lines, "taken", lambda machine, line: False)
    monkeypatch.setattr(shell, "ANSWER_SECONDS", 3.0)

    def make(**more: object) -> FakeConsole:
        made.append(FakeConsole(machine, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_command_at_a_prompt(machine: Machine, tty: Callable[..., FakeConsole]) -> None:
    tty(answers={"uname -a": "NetBSD\n10.1\n"}, prompt="nb# ")
    with Console(machine) as opened:
        assert shell.ready(opened)
        assert shell.run(opened, "uname -a") == "NetBSD\n10.1"
        assert shell.run(opened, "true") == "not found"


def test_a_login_without_a_password(machine: Machine, tty: Callable[..., FakeConsole]) -> None:
    guest = tty(answers={"": "login: ", "root": "Welcome\n"}, greeting="NetBSD/amd64 (console)\n\nlogin: ")
    with Console(machine) as opened:
        assert shell.ready(opened)
    assert guest.typed == ["", "root"]


def test_a_login_that_asks_for_the_terminal(machine: Machine, tty: Callable[..., FakeConsole]) -> None:
    answers = {"": "login: ", "root": "Terminal type? [vt220] "}
    guest = tty(answers=answers, greeting="login: ")
    guest.after = {"root": {"": "Terminal type is vt220.\n"}}
    with Console(machine) as opened:
        assert shell.ready(opened)
    assert guest.typed == ["", "root", ""]


def test_a_password_is_not_guessed(machine: Machine, tty: Callable[..., FakeConsole]) -> None:
    guest = tty(answers={"": "login: ", "root": "Password:"}, greeting="login: ")
    with Console(machine) as opened, pytest.raises(RumplabError, match=r"log in as root with.*guest console nb"):
        shell.require(opened)
    assert guest.typed[:2] == ["", "root"]


def test_a_console_that_does_not_answer(machine: Machine, tty: Callable[..., FakeConsole]) -> None:
    tty(answers={"": "still booting"}, greeting="booting")
    began = time.monotonic()
    with Console(machine) as opened:
        assert not shell.ready(opened, 0.3)
    assert time.monotonic() - began < 3


def test_a_command_that_does_not_end_is_given_up(machine: Machine, tty: Callable[..., FakeConsole]) -> None:
    tty(answers={"sleep": "zzz"})
    with Console(machine) as opened, pytest.raises(RumplabError, match=r"'sleep' on the console of nb has not ended"):
        shell.run(opened, "sleep", 0.3)


def test_a_verb_types_through_an_open_console(machine: Machine, tmp_path: Path) -> None:
    """While a user has the console, a verb sends its input through that session, and reads the answers in the log."""
    machine.serial_log.write_bytes(b"# ")
    held = lines.lock(machine, console.CONSOLE)
    assert held is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as session:
        session.settimeout(5)
        session.bind(str(console.typed_path(machine)))
        with Console(machine) as opened:
            opened.send("ps\r")
            assert session.recv(100) == b"ps\r"
            with machine.serial_log.open("ab") as log:
                log.write(b"ps\r\ninit\r\n# ")
            assert opened.expect(console.PROMPT, 5) == "ps\r\ninit\r\n# "
    os.close(held)


def test_a_console_that_another_program_has(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.serial_log.touch()
    monkeypatch.setattr(lines, "taken", lambda machine, line: True)
    with pytest.raises(RumplabError, match="in use by a program other than rumplab"), Console(machine):
        pass
    # Console() has released the lock.
    handle = lines.lock(machine, console.CONSOLE)
    assert handle is not None
    os.close(handle)


def test_the_lock_names_who_has_it(machine: Machine) -> None:
    held = lines.lock(machine, "com1")
    assert held is not None
    assert lines.lock(machine, "com1") is None
    assert lines.holder(machine, "com1") == f"pid {os.getpid()}"
    os.close(held)
    again = lines.lock(machine, "com1")
    assert again is not None
    os.close(again)


def test_the_devices_of_every_bus(machine: Machine, tty: Callable[..., FakeConsole]) -> None:
    missing = "pcictl: /dev/pci2: Device not configured\n"
    guest = tty(answers={"pcictl pci0 list -N": LIST, "pcictl pci1 list -N": OTHER, "pcictl pci2 list -N": missing})
    with Console(machine) as opened:
        found = pci.listed(opened)
    assert [(item["bus"], item["device"], item["function"], item["driver"]) for item in found] == [
        (0, 0, 0, "pchb0"),
        (0, 1, 3, None),
        (0, 2, 0, "genfb0"),
        (1, 1, 0, "wm0"),
    ]
    assert found[3]["description"] == "Intel i82540EM 1000baseT Ethernet (ethernet network, revision 0x03)"
    assert len(guest.typed) == 3


def test_the_labs_pcictl_is_used_where_the_guests_knows_no_names(
    machine: Machine, tty: Callable[..., FakeConsole]
) -> None:
    usage = "pcictl: unknown option -- N\nusage: pcictl /dev/pciN list [-n]\n"
    guest = tty(answers={"pcictl pci0 list -N": usage, "/mnt/pcictl pci0 list -N": OTHER})
    with Console(machine) as opened:
        assert [item["driver"] for item in pci.listed(opened)] == ["wm0"]
    assert guest.typed[1].startswith("mount ")


def test_without_a_pcictl_that_knows_names_there_are_no_names(
    machine: Machine, tty: Callable[..., FakeConsole]
) -> None:
    usage = "pcictl: unknown option -- N\nusage: pcictl /dev/pciN list [-n]\n"
    tty(answers={"pcictl pci0 list -N": usage, "pcictl pci0 list": OTHER.replace(" [wm0]", "")})
    with Console(machine) as opened:
        assert [item["driver"] for item in pci.listed(opened)] == [None]


def test_the_error_for_a_guest_without_pcictl_quotes_the_guest(
    machine: Machine, tty: Callable[..., FakeConsole]
) -> None:
    tty(answers={})
    with Console(machine) as opened, pytest.raises(RumplabError, match="has listed no devices; it printed: not found"):
        pci.listed(opened)
