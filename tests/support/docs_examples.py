"""Run the examples of the documentation. A comment above each console block says how the block is checked:

    <!-- run: host -->      the unit tests run it, in a shell in the root of the checkout
    <!-- run: lab -->       the scenario `default` runs it, on the host that it provisioned
    <!-- skip: REASON -->   nothing runs it, for this reason

In a block, `$ ` starts a command, `> ` continues it, and the following lines are its output. `…` alone on a line
stands for any number of lines, and within a line for any text. A last line `[exit N]` means that the command exits
with status N instead of 0. If a block shows no output for a command, the command may print anything. One shell runs all
commands of a block.

Run as a program, this module checks the pages without running anything. It finds headings that occur twice on a page,
and examples that would never end because they wait for input or have a here-document without its last line.
"""

from __future__ import annotations

import itertools
import re
import secrets
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENTS = ("host", "lab")
MARKER = re.compile(r"<!-- (?:run: (?P<env>\S+)|skip: (?P<reason>\S.*?)) -->$")
EXIT = re.compile(r"\[exit (\d+)\]$")
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*$")
HERE = re.compile(r"<<(-?)[ \t]*(['\"]?)(\w+)\2")
# Commands that read standard input if no argument names a file.
READERS = {"cat", "tee", "sort", "wc", "tac", "sh", "bash", "dash", "zsh", "python", "python3", "gdb"}


class BadExample(Exception):
    """An example that doesn't follow the convention. The text names file, line and the mistake."""


@dataclass(frozen=True)
class Example:
    """One console block. `env` is one of ENVIRONMENTS, or `skip` with a reason.

    `commands`, `expected` and `statuses` have one item for each command.
    """

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
    """Return the console blocks of a Markdown file. Raise BadExample for one that doesn't follow the convention."""
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
    """Return whether the output matches, where `…` stands for any text. An empty expectation matches every output."""
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
    """Return a shell script that runs the commands, and after each prints a line with the token and its status."""
    parts = []
    for command in example.commands:
        parts.append(f"{{ {command}\n}} 2>&1 </dev/null\nprintf '\\n%s %s\\n' '{token}' \"$?\"\n")
    return "".join(parts)


def check(example: Example, run: Callable[[str], str]) -> list[str]:
    """Run an example and return how it differs from the page.

    `run` runs a shell script and returns its output, standard error included.
    """
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
            faults.append(f"{example.name}: `{command}` printed\n{outputs[index]}\ndocumented is\n{documented}")
    return faults


def documents(root: Path) -> list[Path]:
    """Return the pages whose examples are run."""
    entrance = [root / "README.md", root / "CONTRIBUTING.md"]
    return [path for path in [*entrance, *sorted((root / "docs").rglob("*.md"))] if path.is_file()]


def all_examples(root: Path) -> list[Example]:
    return [example for path in documents(root) for example in examples(path, path.relative_to(root).as_posix())]


def headings(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each heading.

    The text begins with the headings above it, because two chapters may have a section of the same name.
    """
    fence = ""
    above: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence = mark[1]
        elif found := HEADING.match(line):
            above = [*above[: len(found[1]) - 1], found[2]]
            yield number, " / ".join(above)


def doubled_headings(text: str) -> list[str]:
    """Return a message for each heading that occurs again on the page."""
    counted = Counter(title for _, title in headings(text))
    seen: set[str] = set()
    faults = []
    for number, title in headings(text):
        if title in seen:
            faults.append(f"{number}: the heading `{title}` occurs {counted[title]} times; rename it")
        seen.add(title)
    return faults


def simple_commands(command: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each simple command of a command line, and whether its input is a pipe."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    fed = False
    for word in lexer:
        if set(word) <= set("();|&") and word:
            yield words, fed
            words, fed = [], word == "|"
        else:
            words.append(word)
    yield words, fed


def reads_the_terminal(words: list[str]) -> bool:
    """Return whether a simple command whose input isn't a pipe would read the terminal."""
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if not words or words[0].rpartition("/")[2] not in READERS or any("<" in word for word in words):
        return False
    operands: list[str] = []
    for before, word in itertools.pairwise(words):
        if not (re.fullmatch(r"\d*[<>]+&?", before) or re.match(r"\d*[<>]", word)):
            operands.append(word)
    if words[0].rpartition("/")[2] == "tee":
        return True
    # With an option, the command may have its program as an argument, as with -c. `-` alone is standard input.
    return all(operand == "-" for operand in operands)


def endless(command: str) -> str:
    """Return why a command of an example would never end, or an empty string."""
    lines = command.splitlines()
    for number, line in enumerate(lines):
        for dash, _, word in HERE.findall(line):
            rest = [other.lstrip("\t") if dash else other for other in lines[number + 1 :]]
            if word not in rest:
                return f"its here-document has no last line `{word}`"
    if any("<<" in line for line in lines):
        # The following lines are the here-document.
        command = lines[0]
    try:
        parts = list(simple_commands(command))
    except ValueError as error:
        return f"the shell would wait for more of it ({error})"
    for words, fed in parts:
        if not fed and reads_the_terminal(words):
            return f"`{' '.join(words)}` waits for input"
    return ""


def faults(root: Path) -> list[str]:
    """Return the messages about all pages, without running anything."""
    found = []
    for path in documents(root):
        name = path.relative_to(root).as_posix()
        found += [f"{name}:{fault}" for fault in doubled_headings(path.read_text("utf-8"))]
        try:
            shown = examples(path, name)
        except BadExample as error:
            found.append(str(error))
            continue
        for example in shown:
            reasons = filter(None, map(endless, example.commands))
            found += [f"{example.name}: an example that never ends: {reason}" for reason in reasons]
    return found


def main() -> int:
    found = faults(Path(__file__).resolve().parents[2])
    print("\n".join(found) or "no page has a heading twice, and every example ends")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
