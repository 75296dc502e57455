"""A shell on a guest's console: logs in and runs commands. Each wait has a time limit."""

from __future__ import annotations

import re

from rumplab.errors import RumplabError
from rumplab.guest.console import PROMPT, Console

LOGIN = r"login: ?\Z"
PASSWORD = r"[Pp]assword: ?\Z"
# What root's .profile asks on a terminal of unknown type. An empty line accepts the default in brackets.
TERMINAL = r"Terminal type\? \[[\w.-]+\] \Z"
ENTER = "\r"
ANSWER_SECONDS = 5.0
USER = "root"


def ready(console: Console, seconds: float = ANSWER_SECONDS) -> bool:
    """Sends an empty line and, at a login prompt, logs in as root if root has no password. Returns whether a shell's
    prompt has appeared; takes three times `seconds` at most."""
    console.send(ENTER)
    answer = console.expect(f"{LOGIN}|{PROMPT}", seconds)
    if answer is None or re.search(PROMPT, answer):
        return answer is not None
    console.send(USER + ENTER)
    answer = console.expect(rf"{PASSWORD}|{TERMINAL}|{LOGIN}|{PROMPT}", seconds)
    if answer is not None and re.search(PASSWORD, answer):
        # An empty password returns to the login prompt.
        console.send(ENTER)
        return False
    if answer is not None and re.search(TERMINAL, answer):
        console.send(ENTER)
        answer = console.expect(PROMPT, seconds)
    return answer is not None and re.search(PROMPT, answer) is not None


def require(console: Console) -> None:
    """RumplabError unless a shell's prompt appears on the console."""
    if not ready(console):
        name = console.machine.name
        raise RumplabError(
            f"there is no shell on the console of {name}; log in as root with: rumplab guest console {name}; leave it"
            " with Ctrl-], then try again"
        )


def run(console: Console, command: str, seconds: float = ANSWER_SECONDS) -> str:
    """The output of `command`. RumplabError when the prompt doesn't return within `seconds`."""
    console.send(command + ENTER)
    said = console.expect(PROMPT, seconds)
    if said is None:
        raise RumplabError(
            f"'{command}' on the console of {console.machine.name} has not ended within {seconds:.0f} s; look at it"
            f" with: rumplab guest console {console.machine.name}"
        )
    lines = re.split(r"[\r\n]+", said)
    # The first line is the echo of the command, the last one the prompt.
    return "\n".join(lines[1:-1])
