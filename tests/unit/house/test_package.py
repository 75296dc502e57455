"""The tool as a Python package: the wheel has all its files, and the version is defined in one place."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from run_tests import ROOT

import rumplab

BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"
SOURCE = ROOT / "src" / "rumplab"


def built(what: str, directory: Path) -> Path:
    """Build a wheel with the build backend, without a network; return its path."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, what, str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return directory / done.stdout.splitlines()[-1]


def files_of_the_tool() -> set[str]:
    return {
        path.relative_to(SOURCE.parent).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def installed(tmp_path: Path) -> Callable[[str], Path]:
    """A function that installs the package in a new environment with this one's PyYAML, and returns its Python."""

    def install(what: str) -> Path:
        venv.create(tmp_path / "venv", with_pip=False)
        python = tmp_path / "venv" / "bin" / "python"
        packages = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
        with zipfile.ZipFile(built(what, tmp_path)) as wheel:
            wheel.extractall(packages)
        (packages / "yaml.pth").write_text(f"{Path(yaml.__file__).parents[1]}\n", "utf-8")
        return python

    return install


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "RUMPLAB_CONFIG": str(python.parent / "none")}
    return subprocess.run(
        [str(python), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def entry_point(wheel: zipfile.ZipFile) -> str:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    return parser["console_scripts"]["rumplab"]


def test_the_wheel_has_every_file_of_the_tool_and_no_other(tmp_path: Path) -> None:
    with zipfile.ZipFile(built("build_wheel", tmp_path)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert entry_point(wheel) == "rumplab.__main__:entry"
    assert names == files_of_the_tool()


@pytest.mark.parametrize("what", ["build_wheel", "build_editable"])
def test_the_command_of_an_installed_package_works_as_the_launcher(installed: Callable[[str], Path], what: str) -> None:
    python = installed(what)
    command = "import sys; from rumplab.__main__ import entry; sys.exit(entry())"
    version = run(python, "-c", command, "--version")
    assert (version.returncode, version.stdout) == (0, f"rumplab {rumplab.__version__}\n"), version.stderr
    # The zsh script is a data file of the package.
    assert "_rumplab" in run(python, "-c", command, "completion", "zsh").stdout
    missing = run(python, "-c", command, "status")
    assert (missing.returncode, "no lab here" in missing.stderr) == (3, True)
    known = run(python, "-c", "from importlib.metadata import version; print(version('rumplab'))")
    assert known.stdout == f"{rumplab.__version__}\n"


def test_an_editable_package_is_the_checkout_and_leaves_nothing_in_it(
    installed: Callable[[str], Path],
) -> None:
    before = files_of_the_tool() | {path.name for path in SOURCE.parent.iterdir()}
    where = run(installed("build_editable"), "-c", "import rumplab; print(rumplab.__file__)")
    assert Path(where.stdout.strip()) == SOURCE / "__init__.py"
    # A new file in src would be copied to hosts and would change the stamp.
    assert files_of_the_tool() | {path.name for path in SOURCE.parent.iterdir()} == before


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/rumplab/__init__.py"
    own = re.compile(rf"(?<![\d.]){re.escape(rumplab.__version__)}(?![\d.])")
    role = [path for path in (ROOT / "roles" / "lab").rglob("*.yml") if own.search(path.read_text("utf-8"))]
    assert role == []


def test_role_lab_reads_the_version_where_it_stands() -> None:
    ansible = Path(sys.executable).parent / "ansible"
    variables = ROOT / "roles" / "lab" / "vars" / "main.yml"
    argv = [str(ansible), "localhost", "-m", "ansible.builtin.debug", "-a", "var=__lab_version"]
    done = subprocess.run(
        [*argv, "-e", f"@{variables}", "-e", f'{{"role_path": "{ROOT}/roles/lab"}}'],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    shown = re.search(r"__lab_version\W+([\w.]+)", done.stdout)
    assert shown and shown[1] == rumplab.__version__, done.stdout + done.stderr
