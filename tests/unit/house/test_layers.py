"""Which packages of the tool import which: a command imports subjects, a subject no command, the host nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "src"
# What everything may import.
BASE = {"rumplab", "rumplab.errors", "rumplab.output"}
HOST = "rumplab.host"
COMMANDS = "rumplab.commands"
CLI = "rumplab.cli"


def module_name(path: Path, source: Path) -> str:
    name = ".".join(path.relative_to(source).with_suffix("").parts)
    return name.removesuffix(".__init__")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imported(path: Path, source: Path) -> Iterator[str]:
    """The modules of the tool that a file imports, wherever in it the statement stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if within(alias.name, "rumplab"))
        elif isinstance(node, ast.ImportFrom) and node.module and within(node.module, "rumplab"):
            for alias in node.names:
                inner = Path(source, *node.module.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def complaint(module: str, other: str) -> str:
    """What is wrong with `module` importing `other`; nothing if that is allowed."""
    if other in BASE:
        return ""
    if within(module, HOST) and not within(other, HOST):
        return "the host's side imports nothing of the rest"
    if module in BASE:
        return "what everything imports, imports nothing"
    if within(module, COMMANDS):
        # `guest` loads its sub-commands by name.
        if within(other, COMMANDS):
            return "a command imports no other command"
        return ""
    if within(other, COMMANDS):
        return "only the command line knows commands, and by their names"
    if within(other, CLI) and not within(module, CLI) and module != "rumplab.__main__":
        return "a subject knows no command line"
    return ""


def complaints(source: Path) -> list[str]:
    found = []
    for path in sorted(source.rglob("*.py")):
        module = module_name(path, source)
        for other in sorted(set(imported(path, source))):
            why = complaint(module, other)
            if why:
                found.append(f"{module} imports {other}: {why}")
    return found


def test_imports_go_from_commands_to_subjects_to_the_host() -> None:
    assert complaints(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("host/locks.py", "from rumplab.lab import config", "the host's side"),
        ("commands/stop.py", "from rumplab.commands.ps import state", "no other command"),
        ("machine/launch.py", "    from rumplab.commands import run", "by their names"),
        ("guest/overlay.py", "from rumplab.cli.arguments import port", "no command line"),
        ("errors.py", "import rumplab.lab.config", "imports nothing"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str, why: str) -> None:
    for name in ("lab/config.py", "commands/ps.py", "commands/run.py", "cli/arguments.py", file):
        path = tmp_path / "rumplab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{line}\n" if name == file and not line.startswith(" ") else "")
    path.write_text(f"def late():\n{line}\n" if line.startswith(" ") else f"{line}\n")
    assert [why in found for found in complaints(tmp_path)] == [True]
