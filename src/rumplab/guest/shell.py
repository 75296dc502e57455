"""A shell on a guest's console: logging in and running commands, each wait bounded."""

from __future__ import annotations

import re

from rumplab.errors import RumplabError
from rumplab.guest.console import PROMPT, Console

LOGIN = r"login: ?\Z"
PASSWORD = r"[Pp]assword: ?\Z"
# What root's .profile asks on a line whose terminal isn't known; the answer in brackets will do.
TERMINAL = r"Terminal type\? \[[\w.-]+\] \Z"
ENTER = "\r"
ANSWER_SECONDS = 5.0
USER = "root"


def ready(console: Console, seconds: float = ANSWER_SECONDS) -> bool:
    """Gets to a shell's prompt: by an empty line to see what answers, and by logging in as root where there is
    no password. Whether that has come about, within three times `seconds` at most."""
    console.send(ENTER)
    answer = console.expect(f"{LOGIN}|{PROMPT}", seconds)
    if answer is None or re.search(PROMPT, answer):
        return answer is not None
    console.send(USER + ENTER)
    answer = console.expect(rf"{PASSWORD}|{TERMINAL}|{LOGIN}|{PROMPT}", seconds)
    if answer is not None and re.search(PASSWORD, answer):
        # Not our password to guess: back to the prompt for a name.
        console.send(ENTER)
        return False
    if answer is not None and re.search(TERMINAL, answer):
        console.send(ENTER)
        answer = console.expect(PROMPT, seconds)
    return answer is not None and re.search(PROMPT, answer) is not None


def require(console: Console) -> None:
    """RumplabError unless a shell is ready."""
    if not ready(console):
        name = console.machine.name
        raise RumplabError(
            f"there is no shell on the console of {name}; log in as root there, leave it with Ctrl-], and try again:"
            f" rumplab guest console {name}"
        )


def run(console: Console, command: str, seconds: float = ANSWER_SECONDS) -> str:
    """What `command` says. RumplabError when the prompt doesn't come back within `seconds`."""
    console.send(command + ENTER)
    said = console.expect(PROMPT, seconds)
    if said is None:
        raise RumplabError(
            f"'{command}' on the console of {console.machine.name} has not ended within {seconds:.0f} s; look there:"
            f" rumplab guest console {console.machine.name}"
        )
    lines = re.split(r"[\r\n]+", said)
    # The first line is the echo of the command, the last one the prompt.
    return "\n".join(lines[1:-1])
