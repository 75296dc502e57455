"""Programs of the checkout find its packages by tools/python or by the directory they start in, never by `sys.path`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DIRECTORIES = ("bench", "molecule", "tests", "tools")
# Whole files are searched, so that a program in a string is found too.
CHANGE = re.compile(
    r"\bsys\.path\s*(?:\[[^\]]*\]\s*=(?!=)|\+?=(?!=)|\.(?:insert|append|extend|remove|pop|clear)\b)"
    r"|\bfrom sys import [^\n]*\bpath\b|\badd[s]itedir\b|\bsyspath_[p]repend\b"
)


def changes(root: Path) -> Iterator[str]:
    """The places in the Python files below `root` where the import path is changed."""
    for directory in DIRECTORIES:
        for path in sorted((root / directory).rglob("*.py")):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if CHANGE.search(line):
                    yield f"{path.relative_to(root)}:{number}: {line.strip()}"


def test_no_program_changes_the_import_path() -> None:
    assert list(changes(ROOT)) == [], "start it with tools/python, or with -m in the directory that has its package"


@pytest.mark.parametrize(
    "change", [".insert(0, x)", "[:0] = [x]", "[0:1] = [x]", " += [x]", " = [x]", ".append(x)", ".extend([x])"]
)
def test_a_change_is_found_in_a_program_and_in_the_text_of_one(tmp_path: Path, change: str) -> None:
    for directory in DIRECTORIES:
        (tmp_path / directory).mkdir()
    (tmp_path / "bench/a.py").write_text(f"import sys\nsys.path{change}\n", "utf-8")
    (tmp_path / "tests/b.py").write_text(f'CODE = "import sys; sys.path{change}; import c"\n', "utf-8")
    (tmp_path / "tools/c.py").write_text("import sys\nprint(sys.path, sys.path == [], sys.path[0] == '')\n", "utf-8")
    assert [found.partition(": ")[0] for found in changes(tmp_path)] == ["bench/a.py:2", "tests/b.py:1"]


def test_tools_python_and_pytest_have_the_same_directories() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    argv = [str(ROOT / "tools/python"), "-c", "import os; print(os.environ['PYTHONPATH'])"]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip("\n").split(":") == [str((ROOT / name).resolve()) for name in settings["pythonpath"]]


def test_without_the_virtual_environment_tools_python_says_what_makes_it(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    copy = shutil.copy(ROOT / "tools/python", tmp_path / "tools")
    done = subprocess.run([copy, "-V"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f"tools/python: {tmp_path.resolve()}/.venv/bin/python is not installed; run: ./test --list\n"
