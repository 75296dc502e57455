"""How the host's own Python is found: roles/host/files/pythons.sh, run by several shells."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FILES = Path(__file__).resolve().parents[3] / "roles" / "host" / "files"
PYTHON = str(Path(sys.executable).resolve())
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
FAMILIES = ("Debian", "RedHat", "Archlinux", "Darwin", "Linux")


def host_python(*paths: str, modules: str = "-", shell: str = "sh") -> str:
    table = "".join(f"# {family}\n{family} {modules} {' '.join(paths)}\n" for family in FAMILIES)
    argv = [*([shell, "sh"] if shell == "busybox" else [shell]), "-eu", "-c"]
    script = f'. "{FILES}/pythons.sh"; python_patience=1; host_python "$1"'
    done = subprocess.run([*argv, script, "sh", table], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_first_usable_python_is_taken(shell: str) -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    assert host_python("/nonexistent", PYTHON, "/bin/sh", shell=shell) == f"rumplab-python {PYTHON} {version}\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_reason_against_each_other_candidate_is_given(shell: str, tmp_path: Path) -> None:
    shim = script(tmp_path / "shim", f"exec '{PYTHON}' \"$@\"")
    program = shutil.which("true") or "true"
    # sys.executable is the interpreter in this virtual environment.
    said = host_python("/nonexistent", shim, sys.executable, program, shell=shell).splitlines()
    assert said == [
        "- /nonexistent isn't there",
        f"- {shim} is a script that stands for another Python",
        f"- {sys.executable} is a virtual environment's",
        f"- {program} ends well, and is no Python",
    ]


def test_condas_python_is_not_the_systems(tmp_path: Path) -> None:
    library = Path(os.__file__).parent
    (tmp_path / "bin").mkdir()
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "lib").mkdir()
    shutil.copy(PYTHON, tmp_path / "bin" / "python3")
    (tmp_path / "lib" / library.name).symlink_to(library)
    assert host_python(f"{tmp_path}/bin/python3") == f"- {tmp_path}/bin/python3 is conda's\n"


def test_a_python_with_the_package_managers_bindings_is_preferred(tmp_path: Path) -> None:
    """Two copies of one Python; the second has one more module in its library."""
    assert host_python(PYTHON, modules="no_such_module,json").startswith(f"rumplab-python {PYTHON} ")
    assert host_python("/nonexistent", PYTHON, modules="no_such_module").startswith(f"rumplab-python {PYTHON} ")
    library = Path(os.__file__).parent
    for name in ("with", "without"):
        (tmp_path / name / "bin").mkdir(parents=True)
        own = tmp_path / name / "lib" / library.name
        own.mkdir(parents=True)
        shutil.copy(PYTHON, tmp_path / name / "bin" / "python3")
        for each in library.iterdir():
            if each.name != "site-packages":
                (own / each.name).symlink_to(each)
    (own.parents[2] / "with" / "lib" / library.name / "bindings.py").touch()
    without, with_bindings = (f"{tmp_path}/{name}/bin/python3" for name in ("without", "with"))
    assert f" {with_bindings} " in host_python(without, with_bindings, modules="bindings")


def test_the_table_has_absolute_paths_for_every_family() -> None:
    lines = (FILES / "pythons.txt").read_text("utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert {row[0] for row in rows} == set(FAMILIES)
    for _, modules, *paths in rows:
        assert re.fullmatch(r"-|\w+(,\w+)*", modules)
        assert paths
        assert all(path.startswith("/") and "python" in path for path in paths)
        assert not [path for path in paths if "/shims/" in path or "venv" in path]
