"""Run the examples of the documentation: every console block says in a comment above it how it is checked.

    <!-- run: host -->      run by the unit tests, in a shell in the root of the checkout
    <!-- run: lab -->       run by the scenario `default`, on the host that it provisioned
    <!-- skip: REASON -->   not run, for the reason given

Inside a block, `$ ` starts a command and `> ` continues it; what follows is its output. `…` alone on a line
stands for any number of lines, within a line for any text. A last line `[exit N]` says that the command ends
with N, not 0. A command without output may print anything. The commands of a block share one shell.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENTS = ("host", "lab")
MARKER = re.compile(r"<!-- (?:run: (?P<env>\S+)|skip: (?P<reason>\S.*?)) -->$")
EXIT = re.compile(r"\[exit (\d+)\]$")


class BadExample(Exception):
    """An example that doesn't follow the convention: names file, line and what is missing."""


@dataclass(frozen=True)
class Example:
    """One console block. `env` is one of ENVIRONMENTS, or `skip` with a reason; the tuples are parallel."""

    file: str
    line: int
    env: str
    commands: tuple[str, ...]
    expected: tuple[str, ...]
    statuses: tuple[int, ...]
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}"


def examples(path: Path, name: str = "") -> list[Example]:
    """Read the console blocks of a Markdown file; raise BadExample for one that breaks the convention."""
    name = name or path.name
    found = []
    marker, inside, block, start = "", False, [""], 0
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
        stripped = text.strip()
        if inside:
            if stripped == "```":
                inside = False
                found.append(parse(name, start, marker, block))
                marker = ""
            else:
                block.append(text)
        elif stripped == "```console":
            inside, block, start = True, [], number
        elif stripped:
            marker = stripped
    if inside:
        raise BadExample(f"{name}:{start}: the block doesn't end")
    return found


def parse(name: str, line: int, marker: str, block: list[str]) -> Example:
    where = f"{name}:{line}"
    match = MARKER.match(marker)
    if not match:
        raise BadExample(f"{where}: no `<!-- run: ENV -->` or `<!-- skip: REASON -->` above the block")
    env = match["env"] or "skip"
    if env not in (*ENVIRONMENTS, "skip"):
        raise BadExample(f"{where}: no environment is called {env}; there are {', '.join(ENVIRONMENTS)}")
    commands: list[str] = []
    outputs: list[list[str]] = []
    for text in block:
        if text.startswith("$ "):
            commands.append(text[2:])
            outputs.append([])
        elif not commands:
            raise BadExample(f"{where}: the block starts with output; a command starts with `$ `")
        elif text.startswith("> ") and not outputs[-1]:
            commands[-1] += "\n" + text[2:]
        else:
            outputs[-1].append(text)
    if not commands:
        raise BadExample(f"{where}: the block has no command")
    statuses = []
    for lines in outputs:
        exit_line = EXIT.match(lines[-1]) if lines else None
        statuses.append(int(exit_line[1]) if exit_line else 0)
        if exit_line:
            lines.pop()
    expected = tuple("\n".join(lines) for lines in outputs)
    return Example(name, line, env, tuple(commands), expected, tuple(statuses), match["reason"] or "")


def matches(expected: str, actual: str) -> bool:
    """Whether the output is the expected one, `…` standing for anything and no expectation for everything."""
    if not expected.strip():
        return True
    pattern = ""
    for line in expected.strip("\n").splitlines():
        if line.strip() == "…":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += "[^\n]*?".join(re.escape(piece) for piece in line.rstrip().split("…")) + r"[ \t]*\n"
    return re.fullmatch(pattern, actual.strip("\n") + "\n") is not None


def script(example: Example, token: str) -> str:
    """One shell script that runs the commands and reports each one's status on a line with the token."""
    parts = []
    for command in example.commands:
        parts.append(f"{{ {command}\n}} 2>&1 </dev/null\nprintf '\\n%s %s\\n' '{token}' \"$?\"\n")
    return "".join(parts)


def check(example: Example, run: Callable[[str], str]) -> list[str]:
    """Run an example by `run` (script to output, both streams) and say what isn't as documented."""
    token = f"@@{secrets.token_hex(8)}"
    pieces = re.split(rf"\n?{token} (\d+)\n", run(script(example, token)))
    outputs, statuses = pieces[0:-1:2], [int(status) for status in pieces[1::2]]
    faults = []
    for index, command in enumerate(example.commands):
        if index >= len(statuses):
            faults.append(f"{example.name}: `{command}` did not end\n{pieces[-1]}")
            break
        if statuses[index] != example.statuses[index]:
            faults.append(
                f"{example.name}: `{command}` ended with {statuses[index]}, "
                f"documented is {example.statuses[index]}\n{outputs[index]}"
            )
        elif not matches(example.expected[index], outputs[index]):
            documented = example.expected[index]
            faults.append(
                f"{example.name}: `{command}` printed\n{outputs[index]}\ndocumented is\n{documented}"
            )
    return faults


def documents(root: Path) -> list[Path]:
    """The files whose examples are run."""
    return [path for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))] if path.is_file()]


def all_examples(root: Path) -> list[Example]:
    return [
        example for path in documents(root) for example in examples(path, path.relative_to(root).as_posix())
    ]
